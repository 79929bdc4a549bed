/* What is shown, as files. */
/** An svg element as a PNG of so many pixels in width, on white, with lines of text below. */
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
  const line = Math.round(width / 60);
  Object.assign(canvas, { width, height: height + Math.round((captions.length + 0.6) * line) });
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0, width, height);
  context.fillStyle = "#1a1a1a";
  context.font = `${Math.round(line * 0.75)}px system-ui, sans-serif`;
  captions.forEach((caption, n) => context.fillText(caption, line / 3, height + (n + 0.9) * line));
  return new Promise((done) => {
    canvas.toBlob(done, "image/png");
  });
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

function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
