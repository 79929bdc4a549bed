/* Elements of the page, made in one call. */
/** An HTML element; text among the children stays text. */
function element(name, attributes, children = []) {
  const made = document.createElement(name);
  Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
  made.append(...children);
  return made;
}

/** An SVG element, with text in it if there is any. */
function svgElement(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
  if (text !== undefined) made.textContent = text;
  return made;
}

/** A text that begins with a capital letter. */
function capital(text) {
  return text[0].toUpperCase() + text.slice(1);
}
