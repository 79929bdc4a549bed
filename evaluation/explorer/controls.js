/* Sliders and buttons of the subject: one for each condition and each latent. */
const FIRST = 6; // latents that are shown before the others are asked for

/** A control per condition. `change(name, value)` is called as it moves; null is unknown.
 *
 * @returns by name, a function that shows a value.
 */
function conditionControls(model, place, change, play) {
  const shows = {};
  for (const condition of model.conditions) {
    const make = condition.kind === "continuous" ? sliderOf : buttonsOf;
    const [control, show] = make(model, condition, change, play);
    place.append(control);
    shows[condition.name] = show;
  }
  return shows;
}

function sliderOf(model, condition, change, play) {
  const { name, from, to, step, p5, p95, unit } = condition;
  const id = `condition-${name}`;
  const share = (value) => (value - from) / (to - from);
  const slider = element("input", { type: "range", id, min: from, max: to, step });
  slider.value = condition.typical; // where it begins if it is unknown now
  slider.setAttribute("aria-describedby", `${id}-warning`);
  const output = element("output", { for: id });
  const warning = element("p", { class: "warning", id: `${id}-warning` });
  const band = element("span", { class: "middle", "aria-hidden": true });
  band.style.left = `calc(8px + (100% - 16px) * ${share(p5)})`;
  band.style.width = `calc((100% - 16px) * ${share(p95) - share(p5)})`;
  const ends = [p5, p95].map((value) => rounded(value, step));
  const range = `${ends[0]} to ${ends[1]} ${unit}`.trim();
  const middle =
    model.source === "training"
      ? `the middle 90% of training subjects (${range})`
      : `what training subjects mostly were (about ${range})`;
  band.title = middle;
  const unknown = element("input", { type: "checkbox", id: `${id}-unknown` });
  unknown.setAttribute("aria-label", `${condition.title} unknown`);
  const start = element("button", { type: "button", class: "play" });
  start.setAttribute("aria-label", `Play ${condition.title}`);
  start.textContent = "▶";
  start.title = `Let it run through ${range}`;
  slider.addEventListener("input", () => change(name, rounded(Number(slider.value), step)));
  start.addEventListener("click", () => play(condition, start));
  unknown.addEventListener("change", () =>
    change(name, unknown.checked ? null : rounded(Number(slider.value), step)),
  );
  const show = (value) => {
    if (value !== null) slider.value = value;
    slider.classList.toggle("unknown", value === null);
    unknown.checked = value === null;
    output.textContent = inWords(condition, value);
    slider.setAttribute("aria-valuetext", inWords(condition, value));
    const beyond = value !== null && (value < ends[0] || value > ends[1]);
    const text = beyond ? `Beyond ${middle}: the model has seen few such ECGs.` : "";
    if (warning.textContent !== text) warning.textContent = text;
  };
  const hide = element("label", { class: "unknown-box" }, [unknown, " unknown"]);
  const control = element("div", { class: "condition" }, [
    element("label", { for: id }, [capital(condition.title)]),
    output,
    start,
    element("span", { class: "track" }, [band, slider]),
    ...(model.encoding === "raw" ? [] : [hide]),
    warning,
  ]);
  return [control, show];
}

function buttonsOf(model, condition, change) {
  const { name, categories } = condition;
  const choices = model.encoding === "raw" ? categories : [...categories, null];
  const buttons = choices.map((value) => {
    const button = element("input", { type: "radio", name: `condition-${name}` });
    button.addEventListener("change", () => change(name, value));
    return button;
  });
  const labels = choices.map((value, n) =>
    element("label", {}, [buttons[n], element("span", {}, [inWords(condition, value)])]),
  );
  const show = (value) => buttons.forEach((button, n) => (button.checked = choices[n] === value));
  const control = element("fieldset", { class: "condition choice" }, [
    element("legend", {}, [capital(condition.title)]),
    ...labels,
  ]);
  return [control, show];
}

/** A slider per latent, the first ones in `place`, the others in `more`.
 *
 * @returns a function that shows {index: shift}.
 */
function latentControls(model, place, more, change) {
  const sliders = model.latent.map(({ index, kl, moves }, number) => {
    const id = `latent-${index}`;
    const [min, max] = [-SHIFT_LIMIT, SHIFT_LIMIT];
    const slider = element("input", { type: "range", id, min, max, step: 0.1 });
    const output = element("output", { for: id });
    slider.addEventListener("input", () => change(index, rounded(Number(slider.value), 0.1)));
    slider.addEventListener("dblclick", () => change(index, 0));
    const words = [element("b", {}, [`z${index}`]), ` ${moves}`];
    const label = element("label", { for: id, title: `KL ${kl.toPrecision(2)} nat` }, words);
    const track = element("span", { class: "track" }, [slider]);
    const row = element("div", { class: "latent" }, [label, output, track]);
    (number < FIRST ? place : more).append(row);
    return { index, slider, output };
  });
  return (shifts) => {
    for (const { index, slider, output } of sliders) {
      const shift = shifts[index] ?? 0;
      slider.value = shift;
      const text = shiftInWords(shift);
      output.textContent = text;
      slider.setAttribute("aria-valuetext", text);
    }
  };
}
