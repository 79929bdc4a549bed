/* Numbers beside the ECG: features and the middle 90% of subjects, what is pinned, and the risk. */
const WAVES = { p: "P", r: "R", s: "S or Q", j: "J point", t: "T" };
const DECIMALS = { ms: 0, degrees: 0 }; // amplitudes have two, in any unit
const SIGNS = { degrees: "°" };

/** The middle 90% of a feature of subjects of like conditions: [low, high], or null.
 *
 * Null too where its ends have crossed, as two lines may far from all subjects. No end is one that
 * the feature cannot have, such as an R wave below 0.
 *
 * `reference.design` has the columns that the coefficients are for.
 */
function middleRange(model, feature, values) {
  if (!feature.low) return null;
  const design = [1];
  for (const { name, kind, categories, mean, sd } of model.conditions) {
    const value = values[name];
    if (kind === "continuous") design.push(value === null ? 0 : (value - mean) / sd);
    else categories.slice(1).forEach((category) => design.push(value === category ? 1 : 0));
    design.push(value === null ? 1 : 0);
  }
  const [low, high] = [feature.low, feature.high].map((ends) =>
    ends.reduce((sum, coefficient, column) => sum + coefficient * design[column], 0),
  );
  const { least, most } = feature;
  const possible = [Math.max(low, least ?? -Infinity), Math.min(high, most ?? Infinity)];
  return low <= high && possible[0] <= possible[1] ? possible : null;
}

/** Where a value stands: -1 below the range, 1 above, 0 within or not known. */
function outside(feature, value, range) {
  if (!range || Number.isNaN(value)) return 0;
  const near = nearest(feature, value);
  return near < range[0] ? -1 : Number(near > range[1]);
}

/** An angle on the turn that its range is on; any other value as it is. */
function nearest(feature, value) {
  return feature.centre === null ? value : shortWay(value - feature.centre) + feature.centre;
}

/** The turn between -180 and 180 degrees that ends at the same direction. */
function shortWay(turn) {
  return ((((turn + 180) % 360) + 360) % 360) - 180;
}

function inUnit(value, unit, signed = false) {
  if (!Number.isFinite(value)) return "not found";
  let number = value.toFixed(DECIMALS[unit] ?? 2).replace(/^-(0(\.0*)?)$/, "$1");
  if (signed && value > 0) number = `+${number}`;
  return `${number.replace("-", "−")}${SIGNS[unit] ?? ` ${unit}`}`;
}

/** Fills the tables of features. `pinned` has `features`, or is null. */
function showFeatures(model, found, values, pinned) {
  const rows = model.whole.map((name) => featureRow(model, name, found, values, pinned));
  document.querySelector("#features tbody").replaceChildren(...rows);
  document.querySelector("#features").classList.toggle("pinned", Boolean(pinned));
  const leads = model.leads.map((lead) => {
    const cells = Object.keys(WAVES).map((wave) => {
      const name = `${wave}_${lead.toLowerCase()}`;
      const [feature, value] = [model.features[name], found[name]];
      const range = middleRange(model, feature, values);
      const turn = pinned ? value - pinned.features[name] : NaN;
      return element("td", { title: rangeInWords(feature, range) }, [
        Number.isFinite(value) ? bare(inUnit(value, feature.unit), feature.unit) : "–",
        flag(outside(feature, value, range)),
        ...(Number.isFinite(turn)
          ? [element("small", {}, [` ${bare(inUnit(turn, feature.unit, true), feature.unit)}`])]
          : []),
      ]);
    });
    return element("tr", {}, [element("th", { scope: "row" }, [lead]), ...cells]);
  });
  document.querySelector("#leads tbody").replaceChildren(...leads);
}

function featureRow(model, name, found, values, pinned) {
  const [feature, value] = [model.features[name], found[name]];
  const range = middleRange(model, feature, values);
  const cells = [
    element("td", { class: "value" }, [
      inUnit(value, feature.unit),
      flag(outside(feature, value, range)),
    ]),
    element("td", { class: "band" }, range ? [bandOf(feature, value, range)] : []),
    element("td", {}, [rangeInWords(feature, range)]),
  ];
  if (pinned) {
    const before = pinned.features[name];
    const turn = feature.unit === "degrees" && feature.centre !== null ? shortWay : (one) => one;
    cells.push(
      element("td", {}, [inUnit(before, feature.unit)]),
      element("td", { class: "change" }, [
        Number.isFinite(value - before) ? inUnit(turn(value - before), feature.unit, true) : "",
      ]),
    );
  }
  return element("tr", {}, [element("th", { scope: "row" }, [capital(feature.title)]), ...cells]);
}

function rangeInWords(feature, range) {
  if (!range) return "";
  const [low, high] = range.map((end) => inUnit(end, feature.unit));
  return `${bare(low, feature.unit)} to ${high}`;
}

/** What `inUnit` gives, without the unit. */
function bare(text, unit) {
  return text.replace(SIGNS[unit] ?? ` ${unit}`, "");
}

/** What says without colour that a value lies outside. */
function flag(side) {
  if (!side) return "";
  const words = side > 0 ? "above the middle 90%" : "below the middle 90%";
  return element("span", { class: "flag", role: "img", "aria-label": words, title: words }, [
    side > 0 ? " ▲" : " ▼",
  ]);
}

/** The range as a band, and the value as a mark on it. */
function bandOf(feature, value, [low, high]) {
  const width = high - low || 1;
  const place = (v) => Math.min(Math.max(24 + (48 * (v - low)) / width, 4), 92);
  const svg = svgElement("svg", { viewBox: "0 0 96 12", class: "range", "aria-hidden": true });
  svg.append(svgElement("rect", { x: 24, y: 3, width: 48, height: 6, rx: 3, class: "middle" }));
  if (Number.isFinite(value)) {
    const kind = outside(feature, value, [low, high]) ? "out" : "";
    const mark = { cx: place(nearest(feature, value)), cy: 6, r: 3.4, class: kind };
    svg.append(svgElement("circle", mark));
  }
  return svg;
}

/** A sentence for those who hear the page. */
function spoken(model, found, values) {
  const told = model.whole.map((name) => {
    const [feature, value] = [model.features[name], found[name]];
    const side = outside(feature, value, middleRange(model, feature, values));
    const where = ["", ", above the middle 90%", ", below the middle 90%"].at(side);
    return `${feature.title} ${inUnit(value, feature.unit)}${where}`;
  });
  return told.join("; ");
}

// --- the head ------------------------------------------------------------------------------------

/** What the head says, and for a Cox head the survival curve; `pinned`: {z, encoded} or null. */
function showRisk(model, now, pinned) {
  const { head } = model;
  const [output, before] = [now, pinned].map((one) => one && headOutput(model, one.z, one.encoded));
  const words = [headInWords(head, output)];
  if (before) words.push(`pinned: ${headInWords(head, before)}`);
  if (before && head.kind === "survival") {
    const ratio = Math.exp(output[0] - before[0]);
    words.push(`hazard ratio to what is pinned ${threeDigits(ratio)}`);
  }
  document.querySelector("#risk p").textContent = `${words.join("; ")}.`;
  if (!head.times) return;
  const curves = before ? [[before[0], "was"]] : [];
  drawSurvival(model, [...curves, [output[0], "now"]]);
}

function headInWords({ kind, task }, output) {
  const number = (value) => value.toFixed(2).replace("-", "−");
  if (kind === "survival") return `Log hazard ${number(output[0])}`;
  if (kind === "regression") return `Prediction (${task}) ${threeDigits(output[0])}`;
  if (kind === "binary") return `Probability ${number(1 / (1 + Math.exp(-output[0])))}`;
  const shares = output.map((value) => Math.exp(value - Math.max(...output)));
  const total = shares.reduce((sum, value) => sum + value, 0);
  return shares.map((share, n) => `class ${n}: ${number(share / total)}`).join(", ");
}

/** Rounded, as people write it: 1230, where `toPrecision` alone gives 1.23e+3. */
function threeDigits(value) {
  return `${Number(value.toPrecision(3))}`.replace("-", "−");
}

function drawSurvival(model, curves) {
  const svg = document.querySelector("#risk svg");
  const { times } = model.head;
  const [left, top, width, height] = [34, 8, 300, 130];
  const x = (time) => left + (width * time) / times.at(-1);
  const y = (share) => top + height * (1 - share);
  svg.replaceChildren();
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    const label = { x: left - 4, y: y(share) + 3, "text-anchor": "end" };
    svg.append(
      svgElement("path", { d: `M${left},${y(share)}h${width}`, class: "grid" }),
      svgElement("text", label, `${100 * share}%`),
    );
  }
  const years = times.at(-1);
  const step = [0.25, 0.5, 1, 2, 5, 10, 20].find((one) => years / one <= 6) ?? 50;
  for (let year = 0; year <= years; year += step) {
    const label = { x: x(year), y: top + height + 12, "text-anchor": "middle" };
    svg.append(svgElement("text", label, `${year}`));
  }
  const middle = { x: x(years / 2), y: top + height + 25, "text-anchor": "middle" };
  svg.append(svgElement("text", middle, "years"));
  for (const [logHazard, name] of curves) {
    const points = survivalCurve(model, logHazard).map((share, n) => `${x(times[n])},${y(share)}`);
    svg.append(svgElement("polyline", { points: points.join(" "), class: name }));
  }
  const end = (100 * survivalCurve(model, curves.at(-1)[0]).at(-1)).toFixed(0);
  svg.setAttribute("aria-label", `Probability of no event, ${end}% after ${years} years`);
}
