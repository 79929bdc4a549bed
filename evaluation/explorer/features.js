/* The read-outs of a beat: evaluation/measures/features.py, for one beat of the twelve leads.
 *
 * Dims: T samples.
 */
const INDEPENDENT = ["I", "II", "V1", "V2", "V3", "V4", "V5", "V6"];

/** Features by name, as `measure` gives them, those that the page shows; and the ends of waves.
 *
 * @param ecg - twelve arrays of T samples.
 * @param model - `leads`, `sampling_rate`, `fiducial` (sample), `kors` (3 x 8) and `amplitude` are
 *   read: its `mv` is what one unit of the ECG stands for in limits that are in mV.
 */
function measure(ecg, model) {
  const ms = model.sampling_rate / 1000;
  const { mv } = model.amplitude;
  const independent = (leads) => INDEPENDENT.map((name) => leads[model.leads.indexOf(name)]);
  const [qrsOnset, qrsOffset] = findQrs(independent(ecg), ms, model.fiducial);
  const leads = ecg.map((lead) => {
    const base = meanWithin(lead, qrsOnset - BASELINE[0] * ms, qrsOnset - BASELINE[1] * ms) || 0;
    return lead.map((value) => mv * (value - base));
  });
  const smooth = leads.map((lead) => smoothed(lead, T_WAVE.smoothing * ms));
  const [pOnset, pOffset] = findP(independent(leads), qrsOnset, ms);
  const tOffset = findTEnd(independent(smooth), qrsOffset, ms);
  const ends = { pOnset, pOffset, qrsOnset, qrsOffset, tOffset };
  return {
    p_duration: (pOffset - pOnset) / ms,
    pr_interval: (qrsOnset - pOnset) / ms,
    qrs_duration: (qrsOffset - qrsOnset) / ms,
    qt_interval: (tOffset - qrsOnset) / ms,
    ...directions(leads, ends, model),
    ...Object.fromEntries(
      Object.entries(amplitudes(leads, smooth, ends, model, ms)).map(([name, v]) => [name, v / mv]),
    ),
    ends: Object.values(ends).map((end) => end / ms),
  };
}

/** Frontal axes and the spatial QRS-T angle, in degrees. */
function directions(leads, ends, model) {
  const mean = (start, end) =>
    Object.fromEntries(model.leads.map((name, l) => [name, meanWithin(leads[l], start, end)]));
  const qrs = mean(ends.qrsOnset, ends.qrsOffset);
  const t = mean(ends.qrsOffset, ends.tOffset);
  const axis = (vector) => degrees(Math.atan2((2 / Math.sqrt(3)) * vector.aVF, vector.I));
  const [a, b] = [qrs, t].map((vector) =>
    model.kors.map((row) => row.reduce((sum, c, lead) => sum + c * vector[INDEPENDENT[lead]], 0)),
  );
  const cross = [0, 1, 2].map(
    (i) => a[(i + 1) % 3] * b[(i + 2) % 3] - a[(i + 2) % 3] * b[(i + 1) % 3],
  );
  const dot = a.reduce((sum, value, i) => sum + value * b[i], 0);
  return {
    qrs_axis: axis(qrs),
    t_axis: axis(t),
    qrs_t_angle: degrees(Math.atan2(Math.hypot(...cross), dot)),
  };
}

/** Heights and depths; P and T are read off the smoothed leads. */
function amplitudes(leads, smooth, ends, model, ms) {
  const tOnset = Math.max(
    ends.qrsOffset + T_WAVE.from * ms,
    ends.tOffset - T_WAVE.duration * ms,
  );
  const found = {};
  model.leads.forEach((lead, number) => {
    const name = lead.toLowerCase();
    // P is so small that slow drift would turn it: its baseline is midway between its two ends.
    const [early, late] = BASELINE.map((before) => ends.pOnset - before * ms);
    const base = meanWithin(leads[number], early, late) / 2;
    const around = smooth[number].map((value) => value - base);
    const [high, low] = extremes(leads[number], ends.qrsOnset, ends.qrsOffset);
    found[`p_${name}`] = larger(extremes(around, ends.pOnset, ends.pOffset));
    found[`r_${name}`] = high;
    found[`s_${name}`] = -low;
    found[`j_${name}`] = valueAt(leads[number], ends.qrsOffset);
    found[`t_${name}`] = larger(extremes(smooth[number], tOnset, ends.tOffset));
  });
  found.sokolow_lyon = found.s_v1 + found.r_v5;
  found.cornell = found.r_avl + found.s_v3;
  return found;
}

/** Mean between two times; NaN if there are none. */
function meanWithin(signal, start, end) {
  let [sum, count] = [0, 0];
  within(start, end, signal.length).forEach((inside, t) => {
    if (inside) [sum, count] = [sum + signal[t], count + 1];
  });
  return sum / count;
}

/** Highest and lowest value between two times, baseline 0 included; else NaN. */
function extremes(signal, start, end) {
  const inside = signal.filter((_, t) => t >= start && t <= end);
  return inside.length ? [Math.max(0, ...inside), Math.min(0, ...inside)] : [NaN, NaN];
}

function larger([high, low]) {
  return high > -low ? high : low;
}

/** Value at a time between samples, by straight lines. */
function valueAt(signal, time) {
  const before = Math.floor(time);
  const after = Math.min(before + 1, signal.length - 1);
  return (1 - (time - before)) * signal[before] + (time - before) * signal[after];
}

function degrees(radians) {
  return (radians * 180) / Math.PI;
}
