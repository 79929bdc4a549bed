/* What the page shows: a subject, a person, a view; and the link that opens the same again.
 *
 * A subject is {values, person, shifts}: conditions by name (null is unknown), the number of a
 * person drawn from the prior (0 is the typical one; "s2" the second test subject, if the file has
 * any), and by how many SD single latents are moved.
 */
const SHIFT_LIMIT = 3;

function startState(model) {
  const values = Object.fromEntries(model.conditions.map((one) => [one.name, one.typical]));
  const speed = window.innerWidth < 700 ? 25 : 50;
  return { values, person: 0, shifts: {}, speed, lead: null, fan: "", pin: null };
}

/** Latent, encoded conditions and ECG of a subject. */
function ecgOf(model, { values, person, shifts }) {
  const encoded = encodeConditions(model, values);
  const real = testSubject(model, person);
  const u = Float64Array.from(real ? real.z : drawPerson(model, person));
  const { sd } = priorMoments(model, encoded);
  for (const { index, spread } of model.latent) {
    // A real subject keeps z as conditions change, as VAE.counterfactual does; others keep u.
    if (shifts[index]) u[index] += shifts[index] * spread * (real ? sd[index] : 1);
  }
  const z = real ? u : latentAt(model, encoded, u);
  return { z, encoded, ecg: decode(model, z, encoded) };
}

function testSubject(model, person) {
  return typeof person === "string" ? model.subjects[Number(person.slice(1)) - 1] : undefined;
}

function personName(person) {
  if (!person) return "the typical person";
  return typeof person === "string" ? `test subject ${person.slice(1)}` : `person ${person}`;
}

/** Values of a condition from one end of its middle 90% to the other, or its categories. */
function sweepValues(condition, count = 7) {
  if (condition.kind !== "continuous") return condition.categories;
  const { p5, p95, step } = condition;
  const values = Array.from({ length: count }, (_, n) => p5 + ((p95 - p5) * n) / (count - 1));
  return values.map((value) => rounded(value, step));
}

/** A value to whole steps, without the tail that binary fractions have. */
function rounded(value, step) {
  return Number((Math.round(value / step) * step).toPrecision(10));
}

/** A condition's value as a reader sees it. */
function inWords(condition, value) {
  if (value === null) {
    const taken = condition.categories.some((category) => category.toLowerCase() === "unknown");
    return taken ? "not given" : "unknown"; // a category may be called so
  }
  return condition.kind === "continuous" ? `${value} ${condition.unit}`.trim() : value;
}

/** A shift of a latent as a reader sees it. */
function shiftInWords(shift) {
  return `${shift > 0 ? "+" : ""}${shift.toFixed(1).replace("-", "−")} SD`;
}

/** Who is shown, piece by piece: conditions, person, and the latents that are moved.
 *
 * @param most - latents to name; of more it says only how many.
 */
function subjectPieces(model, { values, person, shifts }, most = Infinity) {
  const moved = model.latent.filter(({ index }) => shifts[index]);
  const left = moved.length - most;
  return [
    ...model.conditions.map((one) => `${one.title} ${inWords(one, values[one.name])}`),
    personName(person),
    ...moved.slice(0, most).map(({ index }) => `z${index} ${shiftInWords(shifts[index])}`),
    ...(left > 0 ? [`${left} more ${left > 1 ? "latents" : "latent"} moved`] : []),
  ];
}

// --- the link ------------------------------------------------------------------------------------

function toLink(model, state) {
  const query = new URLSearchParams(subjectToQuery(model, state));
  query.set("speed", state.speed);
  if (state.lead !== null) query.set("lead", model.leads[state.lead]);
  if (state.fan) query.set("fan", state.fan);
  if (state.pin) query.set("pin", subjectToQuery(model, state.pin));
  return query.toString();
}

function subjectToQuery(model, { values, person, shifts }) {
  const query = new URLSearchParams();
  for (const { name, categories } of model.conditions) {
    const unknown = categories.includes("unknown") ? "" : "unknown"; // a category may be called so
    query.set(`c.${name}`, values[name] ?? unknown);
  }
  query.set("person", person);
  const moved = Object.entries(shifts).filter(([, shift]) => shift);
  if (moved.length) query.set("z", moved.map(([index, shift]) => `${index}:${shift}`).join(","));
  return query.toString();
}

/** The state of a link; what it does not say, or what makes no sense, is as at the start. */
function fromLink(model, text) {
  const state = startState(model);
  const query = new URLSearchParams(text);
  Object.assign(state, subjectFromQuery(model, query));
  if (["25", "50"].includes(query.get("speed"))) state.speed = Number(query.get("speed"));
  const lead = model.leads.indexOf(query.get("lead"));
  if (lead >= 0) state.lead = lead;
  if (model.conditions.some(({ name }) => name === query.get("fan"))) state.fan = query.get("fan");
  if (query.has("pin")) {
    state.pin = subjectFromQuery(model, new URLSearchParams(query.get("pin")));
  }
  return state;
}

function subjectFromQuery(model, query) {
  const { values, shifts, person: typical } = startState(model);
  for (const condition of model.conditions) {
    const text = query.get(`c.${condition.name}`);
    const number = Number(text);
    if (text === null) continue;
    if (condition.categories.includes(text)) values[condition.name] = text;
    else if (["unknown", ""].includes(text) && model.encoding !== "raw") {
      values[condition.name] = null;
    } else if (condition.kind === "continuous" && text !== "" && Number.isFinite(number)) {
      values[condition.name] = Math.min(Math.max(number, condition.low), condition.high);
    }
  }
  for (const part of (query.get("z") ?? "").split(",")) {
    const [index, shift] = part.split(":").map(Number);
    if (Math.abs(shift) <= SHIFT_LIMIT && model.latent.some((one) => one.index === index)) {
      shifts[index] = shift;
    }
  }
  const asked = query.get("person") ?? "";
  let person = typical;
  if (/^\d{1,9}$/.test(asked)) person = Number(asked);
  else if (/^s\d+$/.test(asked) && testSubject(model, asked)) person = asked;
  return { values, person, shifts };
}
