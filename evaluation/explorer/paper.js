/* ECG paper: beats in millimetres, as evaluation/figures/paper.py lays them out.
 *
 * 10 mm/mV, 25 or 50 mm/s, lines every 1 and 5 mm, a 1 mV pulse before each row, twelve leads in
 * three rows and four columns (Kligfield et al. 2007, doi 10.1161/CIRCULATIONAHA.106.180200).
 * Another unit than mV stands as high as it usually is in mV (`amplitude.mv` of the model). One
 * unit of the drawing is one millimetre of paper.
 */
const GAIN = 10; // mm/mV
const MARGIN = 10; // mm, left of the first column: holds the calibration pulse
const GAP = 5; // mm, between columns: the lead's name stands there
const ROOM = [15, 10]; // mm, that each row has up and down at least
const REACH = 100; // mm, farthest that a row makes room for
const PULSE = "M0.5,0h1v-10h5v10h1";
const INK = { paper: "#fffafa", fine: "#f8dcdc", bold: "#efb8b8", mark: "#0072b2" };

class Paper {
  /** A sheet in an svg element; `choose` is called with the number of a lead that is clicked. */
  constructor(svg, model, choose) {
    const gain = GAIN * model.amplitude.mv; // mm per unit
    Object.assign(this, { svg, model, choose, gain, laidOut: "" });
  }

  /** Draws traces {ecg, color, width in pixels}, the last on top.
   *
   * @param view - `speed` in mm/s; `lead`, the only one to show, or null; `subject`, a text that
   *   changes when rows may shrink again: while a slider moves, they only grow.
   * @param marks - [ms from the first sample, name] to draw where one lead is shown alone.
   */
  draw(traces, view, marks = []) {
    const shown = view.lead === null ? this.model.leads.map((_, lead) => lead) : [view.lead];
    const rows = Math.ceil(shown.length / 4);
    const same = `${view.speed} ${view.lead} ${view.subject}`;
    if (same !== this.same) this.room = Array.from({ length: rows }, () => [...ROOM]);
    this.same = same;
    shown.forEach((lead, place) => this.#makeRoom(this.room[place % rows], traces, lead));
    const sheet = this.#sheet(shown, rows, view);
    const key = JSON.stringify([sheet, traces.length]);
    if (key !== this.laidOut) this.#layOut(sheet, traces.length);
    this.laidOut = key;
    const pixel = sheet.width / (this.svg.clientWidth || 800); // mm
    traces.forEach((trace, number) => {
      const path = this.paths[number];
      path.setAttribute("d", this.#path(sheet, trace.ecg));
      path.setAttribute("stroke", trace.color);
      path.setAttribute("stroke-width", (trace.width * pixel).toFixed(3));
    });
    this.#mark(sheet, view.lead === null ? [] : marks);
  }

  #makeRoom(room, traces, lead) {
    for (const { ecg } of traces) {
      let [high, low] = [0, 0];
      for (const value of ecg[lead]) [high, low] = [Math.max(high, value), Math.min(low, value)];
      room[0] = Math.max(room[0], wholeSquares(Math.min(this.gain * high + 1, REACH)));
      room[1] = Math.max(room[1], wholeSquares(Math.min(-this.gain * low + 1, REACH)));
    }
  }

  #sheet(shown, rows, { speed }) {
    const mm = speed / this.model.sampling_rate; // per sample
    const panel = wholeSquares(this.model.samples * mm) + GAP;
    let height = 0;
    const baselines = this.room.map(([up, down]) => {
      const baseline = height + up;
      height = baseline + down;
      return baseline;
    });
    const width = MARGIN + Math.ceil(shown.length / rows) * panel;
    const places = shown.map((lead, place) => ({
      lead,
      x: MARGIN + Math.floor(place / rows) * panel,
      y: baselines[place % rows],
      up: this.room[place % rows][0],
      height: this.room[place % rows][0] + this.room[place % rows][1],
    }));
    return { mm, panel, width, height, baselines, places };
  }

  #path(sheet, ecg) {
    const parts = [];
    for (const { lead, x, y } of sheet.places) {
      ecg[lead].forEach((value, t) => {
        const [right, down] = [x + t * sheet.mm, y - this.gain * value];
        parts.push(t ? "L" : "M", right.toFixed(2), ",", down.toFixed(3));
      });
    }
    return parts.join("");
  }

  /** Everything but the beats. */
  #layOut(sheet, traces) {
    const { svg } = this;
    const { width, height } = sheet;
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.style.setProperty("--width", `${width}mm`);
    const add = (name, attributes, text) => svg.append(svgElement(name, attributes, text));
    const pixel = width / (svg.clientWidth || 800);
    add("rect", { width, height, fill: INK.paper });
    for (const [step, color, line] of [
      [1, INK.fine, 0.12],
      [5, INK.bold, 0.16],
    ]) {
      let d = "";
      for (let x = 0; x <= width; x += step) d += `M${x},0V${height}`;
      for (let y = 0; y <= height; y += step) d += `M0,${y}H${width}`;
      add("path", { d, stroke: color, "stroke-width": line, fill: "none" });
    }
    const line = { fill: "none", "stroke-linejoin": "round" };
    for (const y of sheet.baselines) {
      const thin = { stroke: "#000", "stroke-width": 1.2 * pixel };
      add("path", { d: PULSE, transform: `translate(0 ${y})`, ...line, ...thin });
    }
    this.marks = svgElement("g", {});
    this.paths = Array.from({ length: traces }, () => svgElement("path", line));
    svg.append(this.marks, ...this.paths);
    const size = Math.min(width < 80 ? 2 : 3.4, 16 * pixel);
    const font = { "font-family": "system-ui, sans-serif", "font-size": size };
    for (const place of sheet.places) {
      const [x, y] = [place.x - 2, place.y - Math.min(place.up, 10) + size];
      const style = { stroke: INK.paper, "stroke-width": size / 4, "paint-order": "stroke" };
      add("text", { x, y, "font-weight": 700, ...font, ...style }, this.model.leads[place.lead]);
      if (sheet.places.length > 1) svg.append(this.#button(place, sheet));
    }
  }

  /** Puts the focus on a lead, where all are shown. */
  focus(lead) {
    this.svg.querySelectorAll(".hit")[lead]?.focus({ preventScroll: true });
  }

  /** What is clicked, or reached by the keyboard, to see one lead alone. */
  #button({ lead, x, y, up, height }, sheet) {
    const button = svgElement("rect", {
      x: x - 4,
      y: y - up,
      width: sheet.panel,
      height,
      class: "hit",
      fill: "transparent",
      tabindex: 0,
      role: "button",
      "aria-label": `Enlarge lead ${this.model.leads[lead]}`,
    });
    button.addEventListener("click", () => this.choose(lead));
    button.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      this.choose(lead);
    });
    return button;
  }

  #mark(sheet, marks) {
    const [{ x, y, up, height }] = sheet.places;
    const perMs = (sheet.mm * this.model.sampling_rate) / 1000;
    this.marks.replaceChildren();
    for (const [ms, name] of marks.filter(([at]) => Number.isFinite(at))) {
      const at = x + ms * perMs;
      const line = { d: `M${at},${y - up}v${height}`, stroke: INK.mark, "stroke-width": 0.12 };
      const label = { x: at + 0.4, y: y - up + height - 0.8, "font-size": 1.5, fill: INK.mark };
      this.marks.append(
        svgElement("path", { ...line, "stroke-dasharray": "0.6 0.6" }),
        svgElement("text", { ...label, "font-family": "system-ui, sans-serif" }, name),
      );
    }
  }
}

/** Rounded up to whole 5 mm squares. */
function wholeSquares(mm) {
  return 5 * Math.ceil(mm / 5 - 1e-9);
}
