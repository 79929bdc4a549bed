/* The page: what a change does, and what is drawn then. */
/* Viridis, which the colour-blind tell apart, without its bright end and the one near black. */
const FAN = ["#414487", "#34618d", "#287c8e", "#1f968b", "#2ab07f", "#58c765", "#9bd93c"];
const NOW = "#000";
const PINNED = "#8a8a8a";
const PLAYED = 8000; // ms, there and back
const QUIET = 700; // ms without a change, after which the link and the spoken numbers follow
const PNG_WIDTH = 2280; // pixels
const NAMED = 4; // latents that the words under the ECG name

class Explorer {
  constructor(model) {
    this.model = model;
    this.state = fromLink(model, window.location.hash.slice(1));
    this.paper = new Paper(find("#paper"), model, (lead) => this.change({ lead }));
    this.playing = null;
    this.memory = {};
    this.lead = this.state.lead;
    const setValue = (name, value) => {
      this.stop();
      this.changeValue(name, value);
    };
    const play = (condition, button) => this.play(condition, button);
    this.showConditions = conditionControls(model, find("#conditions"), setValue, play);
    this.showLatents = latentControls(model, find("#latents"), find("#more"), (index, shift) =>
      this.change({ shifts: { ...this.state.shifts, [index]: shift } }),
    );
    find("#more-latents").hidden = !find("#more").childElementCount;
    this.connect();
  }

  /** Buttons of the toolbar. */
  connect() {
    const { model } = this;
    const press = (selector, action) => find(selector).addEventListener("click", action);
    press("#another", () => {
      const drawn = Number.isInteger(this.state.person) ? this.state.person : 0;
      this.change({ person: drawn + 1, shifts: {} });
    });
    press("#typical", () => this.change({ person: 0, shifts: {} }));
    press("#all-leads", () => this.change({ lead: null }));
    press("#pin", () => {
      const { values, person, shifts } = this.state;
      this.change({ pin: this.state.pin ? null : { values, person, shifts } });
    });
    press("#restart", () => {
      this.stop();
      this.change(startState(model));
    });
    press("#csv", () => this.save("csv"));
    press("#png", () => this.save("png"));
    press("#link", () => this.copyLink());
    document.querySelectorAll("[name=speed]").forEach((button) =>
      button.addEventListener("change", () => this.change({ speed: Number(button.value) })),
    );
    const fan = find("#fan");
    model.conditions.forEach(({ name, title }) => fan.append(new Option(capital(title), name)));
    fan.addEventListener("change", () => this.change({ fan: fan.value }));
    find("#fan-part").hidden = !model.conditions.length;
    const people = find("#people");
    if (people) {
      model.subjects.forEach((_, n) => people.append(new Option(`${n + 1}`, `s${n + 1}`)));
      people.addEventListener("change", () => {
        if (!people.value) return this.change({ person: 0, shifts: {} });
        const { values } = model.subjects[Number(people.value.slice(1)) - 1];
        return this.change({ person: people.value, values: { ...values }, shifts: {} });
      });
    }
    window.addEventListener("hashchange", () => {
      this.stop();
      this.change(fromLink(model, location.hash.slice(1)));
    });
    document.addEventListener("keydown", ({ key }) => {
      if (key === "Escape" && this.state.lead !== null) this.change({ lead: null });
    });
  }

  changeValue(name, value) {
    this.change({ values: { ...this.state.values, [name]: value } });
  }

  /** Changes the state; the page follows with the next frame. */
  change(parts) {
    Object.assign(this.state, parts);
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.refresh();
    });
  }

  refresh() {
    const { model, state } = this;
    const now = ecgOf(model, state);
    const standard = Object.keys(model.features).length > 0;
    const pinned = this.remembered("pin", state.pin, () => {
      const shown = state.pin && ecgOf(model, state.pin);
      const features = shown && standard ? measure(shown.ecg, model) : null;
      return shown && { ...shown, features };
    });
    const fan = model.conditions.find(({ name }) => name === state.fan);
    const fanned = fan ? this.fanned(fan) : [];
    this.shown = { now, pinned };
    const found = standard ? measure(now.ecg, model) : null;
    const traces = [
      ...(pinned ? [{ ecg: pinned.ecg, color: PINNED, width: 2.2 }] : []),
      ...fanned,
      { ecg: now.ecg, color: NOW, width: 1.6 },
    ];
    const ends = ["P", "", "QRS", "", "end of T"];
    const marks = found ? ends.map((name, n) => [found.ends[n], name]) : [];
    const subject = JSON.stringify([state.person, state.pin, state.fan]);
    this.paper.draw(traces, { ...state, subject }, marks);
    this.showControls();
    this.keepFocus();
    this.showCaption(fan, fanned);
    if (standard) showFeatures(model, found, state.values, pinned);
    if (model.head) showRisk(model, now, pinned);
    clearTimeout(this.later);
    this.later = setTimeout(() => this.settle(found), QUIET);
  }

  /** The same person at other values of one condition. */
  fanned(condition) {
    const { person, shifts, values: now } = this.state;
    const same = { person, shifts, values: { ...now, [condition.name]: null } };
    return this.remembered("fan", [condition.name, same], () => {
      const values = sweepValues(condition);
      return values.map((value, n) => ({
        ecg: ecgOf(this.model, { ...same, values: { ...now, [condition.name]: value } }).ecg,
        color: FAN[Math.round((n * (FAN.length - 1)) / Math.max(values.length - 1, 1))],
        width: 1.4,
        value,
      }));
    });
  }

  /** What `make` gave for this key, as long as the key is the same. */
  remembered(name, key, make) {
    const text = JSON.stringify(key);
    if (this.memory[name]?.text !== text) this.memory[name] = { text, value: make() };
    return this.memory[name].value;
  }

  showControls() {
    const { model, state } = this;
    model.conditions.forEach(({ name }) => this.showConditions[name](state.values[name]));
    this.showLatents(state.shifts);
    find("#person").textContent = personName(state.person);
    find("#pin").setAttribute("aria-pressed", Boolean(state.pin));
    find("#pin").textContent = state.pin ? "Unpin" : "Pin to compare";
    find("#all-leads").hidden = state.lead === null;
    find("#fan").value = state.fan;
    document.querySelectorAll("[name=speed]").forEach((button) => {
      button.checked = Number(button.value) === state.speed;
    });
    if (find("#people")) find("#people").value = testPerson(state.person);
    const words = this.subjectInWords(state);
    const leads = state.lead === null ? `${model.leads.length} leads` : model.leads[state.lead];
    find("#paper").setAttribute("aria-label", `Generated ECG, ${leads}: ${words}`);
  }

  /** Where a lead was chosen, the way back is next; and back there, that lead. */
  keepFocus() {
    const { lead } = this.state;
    const { activeElement } = document;
    const free = [document.body, find("#all-leads")].includes(activeElement);
    if (free && lead !== this.lead && lead !== null) find("#all-leads").focus();
    else if (free && lead !== this.lead) this.paper.focus(this.lead);
    this.lead = lead;
  }

  subjectInWords(subject) {
    return subjectPieces(this.model, subject, NAMED).join(", ");
  }

  /** What the colours mean; `legend` keeps it for a picture: lines of [colour or null, words]. */
  showCaption(fan, fanned) {
    const { state } = this;
    const subjects = [[NOW, capital(this.subjectInWords(state))]];
    if (state.pin) subjects.push([PINNED, `Pinned: ${this.subjectInWords(state.pin)}`]);
    const spread = fanned.map(({ color, value }) => [color, inWords(fan, value)]);
    const values = fan ? [[null, `${capital(fan.title)}:`], ...spread] : [];
    const scale = `${state.speed} mm/s, ${this.model.amplitude.paper}`;
    this.legend = [...subjects.map((one) => [one]), values, [[null, scale]]];
    const entry = ([color, words]) => {
      if (!color) return `${words} `;
      const swatch = element("i", { class: "swatch", "aria-hidden": true });
      swatch.style.background = color;
      return element("span", { class: "entry" }, [swatch, words]);
    };
    find("#legend").replaceChildren(...subjects.map(entry));
    find("#fanned").replaceChildren(...values.map(entry));
    find("#scale").textContent = scale;
  }

  /** What follows only once nothing moves any more. */
  settle(found) {
    const told = found ? spoken(this.model, found, this.state.values) : "";
    find("#spoken").textContent = `${capital(this.subjectInWords(this.state))}. ${told}`;
    history.replaceState(null, "", `#${toLink(this.model, this.state)}`);
  }

  // --- playing -----------------------------------------------------------------------------------

  play(condition, button) {
    const again = this.playing?.button !== button;
    this.stop();
    if (!again) return;
    const started = performance.now();
    button.textContent = "■";
    button.setAttribute("aria-pressed", true);
    this.playing = { button };
    const step = (time) => {
      if (this.playing?.button !== button) return;
      const turn = ((time - started) / PLAYED) % 1;
      const share = 1 - Math.abs(1 - 2 * Math.max(turn, 0));
      const value = condition.p5 + (condition.p95 - condition.p5) * share;
      this.changeValue(condition.name, rounded(value, condition.step));
      this.playing.frame = requestAnimationFrame(step);
    };
    this.playing.frame = requestAnimationFrame(step);
  }

  stop() {
    if (!this.playing) return;
    cancelAnimationFrame(this.playing.frame);
    this.playing.button.textContent = "▶";
    this.playing.button.removeAttribute("aria-pressed");
    this.playing = null;
  }

  // --- files -------------------------------------------------------------------------------------

  async save(kind) {
    const { model, shown } = this;
    const name = fileName(model, this.state, kind);
    if (kind === "csv") {
      const named = [["", shown.now.ecg], ...(shown.pinned ? [["pinned_", shown.pinned.ecg]] : [])];
      return download(new Blob([toCsv(model, named)], { type: "text/csv" }), name);
    }
    const captions = [[[null, `Generated by the model ${model.title}`]], ...this.legend];
    return download(await toPng(find("#paper"), PNG_WIDTH, captions), name);
  }

  async copyLink() {
    const said = find("#said");
    try {
      this.settle(null);
      await navigator.clipboard.writeText(location.href);
      said.textContent = "Link copied.";
    } catch {
      said.textContent = "The address of this page is the link: copy it from the address bar.";
    }
  }
}

function testPerson(person) {
  return typeof person === "string" ? person : "";
}

function find(selector) {
  return document.querySelector(selector);
}

new Explorer(
  openModel(JSON.parse(find("#model").textContent), find("#numbers").textContent),
).refresh();
