/* What is shown, as files. */
const LONGEST_NAME = 200; // bytes; file systems take 255

/** An svg element as a PNG of so many pixels in width, on white, with captions below.
 *
 * @param captions - of each its parts, [colour or null, words].
 */
async function toPng(svg, width, captions) {
  const copy = svg.cloneNode(true);
  copy.querySelectorAll(".hit").forEach((each) => each.remove());
  const [, , across, down] = copy.getAttribute("viewBox").split(" ").map(Number);
  const height = Math.round((width * down) / across);
  copy.setAttribute("width", width);
  copy.setAttribute("height", height);
  const image = new Image();
  const text = new XMLSerializer().serializeToString(copy);
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
  await image.decode();
  const canvas = document.createElement("canvas");
  const context = canvas.getContext("2d");
  const line = Math.round(width / 60);
  const font = `${Math.round(line * 0.75)}px system-ui, sans-serif`;
  context.font = font;
  const { words, lines } = wrapped(context, captions, width - (2 * line) / 3, line);
  Object.assign(canvas, { width, height: height + Math.round((lines + 0.6) * line) });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0, width, height);
  context.font = font; // a canvas forgets it when its size changes
  for (const { word, color, x, row } of words) {
    const [left, base] = [line / 3 + x, height + (row + 0.9) * line];
    context.fillStyle = color ?? "#1a1a1a";
    if (color) context.fillRect(left, base - 0.35 * line, line, 0.2 * line);
    else context.fillText(word, left, base);
  }
  return new Promise((done) => {
    canvas.toBlob(done, "image/png");
  });
}

/** Where each word goes, and each colour, which stands before its first word: {x, row}. */
function wrapped(context, captions, width, line) {
  const words = [];
  const space = context.measureText(" ").width;
  let row = -1;
  for (const parts of captions.filter(({ length }) => length)) {
    let x = 0;
    row += 1;
    for (const [color, text] of parts) {
      for (const [n, word] of text.split(" ").entries()) {
        const sample = color && !n ? 1.4 * line : 0;
        const long = sample + context.measureText(word).width;
        if (x && x + long > width) [x, row] = [0, row + 1];
        if (sample) words.push({ color, x, row });
        words.push({ word, x: x + sample, row });
        x += long + space;
      }
      x += line;
    }
  }
  return { words, lines: row + 1 };
}

/** Time in ms from the first sample, and a column for each lead of each named ECG, in its unit. */
function toCsv(model, named) {
  const columns = named.flatMap(([prefix]) => model.leads.map((lead) => prefix + lead));
  const lines = [["time_ms", ...columns].join(",")];
  for (let t = 0; t < model.samples; t++) {
    const time = Number(((t * 1000) / model.sampling_rate).toPrecision(6));
    lines.push([time, ...named.flatMap(([, ecg]) => ecg.map((v) => v[t].toFixed(4)))].join(","));
  }
  return `${lines.join("\n")}\n`;
}

/** A name that says what a file holds: a CSV has no other place that readers do not stumble over.
 *
 * Person and latents come before the conditions, for which long names may have no room.
 */
function fileName(model, state, kind) {
  const subjects = state.pin ? [state, state.pin] : [state];
  const real = subjects.some(({ person }) => testSubject(model, person));
  const pieces = [real ? "reconstructed ecg" : "synthetic ecg", model.title];
  for (const [number, subject] of subjects.entries()) {
    const told = subjectPieces(model, subject);
    const conditions = told.splice(0, model.conditions.length);
    pieces.push(...(number ? ["pinned"] : []), ...told, ...conditions);
  }
  let name = "";
  for (const [number, piece] of pieces.entries()) {
    const longer = `${name}${number ? "_" : ""}${piece.replace(/[^\p{L}\p{N}.+−-]+/gu, "-")}`;
    if (new TextEncoder().encode(longer).length > LONGEST_NAME) {
      return `${name}_and-${pieces.length - number}-more.${kind}`;
    }
    name = longer;
  }
  return `${name}.${kind}`;
}

function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
