/* Where the waves of a beat begin and end: evaluation/measures/waves.py, for one beat.
 *
 * Times are samples, with fractions, and `ms` is the number of samples in 1 ms. The constants and
 * what they are for stand there. What cannot be found is NaN.
 *
 * Dims: T samples; leads are the eight independent ones, each an array of T.
 */
const QRS = { smoothing: 3, busy: 0.12, rest: [0.025, 0.035], reach: [60, 110], restReach: 80 };
const NOISE = 1.5;
const REST_RUN = 10;
const QUIET_RUN = 16;
const SPIKE = { window: 24, back: 0.3, height: 0.1 };
const P_WAVE = {
  smoothing: 12,
  onset: 0.35,
  end: 0.42,
  smear: 7,
  busy: 0.35,
  earliest: 260,
  latest: 20,
  pause: 30,
  shortest: 60,
  longest: 160,
  velocity: 1.6,
  unrest: 0.25,
};
const T_WAVE = {
  smoothing: 8,
  slope: 48,
  fine: 8,
  end: 0.39,
  from: 60,
  peakUntil: 350,
  duration: 200,
  height: 50,
  high: 0.7,
  biphasic: 100,
  before: 30,
  after: 100,
};
const LEAD_SHARE = 0.2;
const NEXT_QRS = { share: 0.7, lead: 60 };
const BASELINE = [24, 6];

/** Onset and offset of the QRS complex. */
function findQrs(leads, ms, fiducial) {
  const speed = velocity(leads.map((lead) => smoothed(lead, QRS.smoothing * ms, 1)));
  const samples = speed.length;
  const near = within(fiducial - 80 * ms, fiducial + 80 * ms, samples);
  const peak = highestAt(speed.map((value, t) => (near[t] ? value : 0)));
  const window = within(peak - QRS.reach[0] * ms, peak + QRS.reach[1] * ms, samples);
  const [top, first, last] = busy(speed, window, QRS.busy);
  const before = within(first - QRS.restReach * ms, first, samples);
  const after = within(last, last + QRS.restReach * ms, samples);
  const run = wholeSamples(REST_RUN * ms);
  const [early, late] = [before, after].map((side, end) =>
    Math.hypot(QRS.rest[end] * top, NOISE * quiet(speed, side, ms)),
  );
  const onset = samples - 1 - firstRest(speed.toReversed(), before.toReversed(), early, run);
  const offset = firstRest(speed, after, late, run);
  if (!(top > 0) || Number.isNaN(onset + offset)) return [NaN, NaN];
  return [afterSpike(leads, onset, offset, ms), offset];
}

/** Onset and offset of the P wave; leads with baseline 0. */
function findP(leads, qrsOnset, ms) {
  const samples = leads[0].length;
  const cut = qrsOnset - BASELINE[1] * ms;
  const slopes = leads.map((lead) =>
    smoothed(
      lead.map((value, t) => (t < cut ? value : 0)),
      P_WAVE.smoothing * ms,
      1,
    ),
  );
  const speed = velocity(slopes);
  let window = within(qrsOnset - P_WAVE.earliest * ms, qrsOnset - P_WAVE.latest * ms, samples);
  const backwards = speed.map((value, t) => (window[t] ? value : 0)).toReversed();
  const highest = risingMaximum(backwards);
  const low = backwards.map((value, t) => value < P_WAVE.busy * highest[t]);
  const pausing = runs(low, wholeSamples(P_WAVE.pause * ms)).map(
    (state, t) => state && highest[t] * ms > P_WAVE.velocity / 1000,
  );
  const paused = pausing.indexOf(true); // from there on, backwards, it is the wave before
  window = window.map((state, t) => state && (paused < 0 || samples - 1 - t < paused));
  const [top, first, last] = busy(speed, window, P_WAVE.busy);

  const latest = qrsOnset - 10 * ms;
  const wave = within(
    first - P_WAVE.pause * ms,
    Math.min(last + P_WAVE.pause * ms, latest),
    samples,
  );
  const [onset, end] = endsInLeads(slopes, wave, P_WAVE.onset, P_WAVE.end);
  const offset = end - P_WAVE.smear * ms;
  const before = within(first - QRS.restReach * ms, first, samples);
  const after = within(last, Math.min(last + QRS.restReach * ms, latest), samples);
  const unrest = (quiet(speed, before, ms) + quiet(speed, after, ms)) / 2;
  const long = offset - onset;
  const found =
    top * ms > P_WAVE.velocity / 1000 &&
    unrest < P_WAVE.unrest * top &&
    long >= P_WAVE.shortest * ms &&
    long <= P_WAVE.longest * ms;
  return found ? [onset, offset] : [NaN, NaN];
}

/** End of the T wave; leads smoothed by `T_WAVE.smoothing`, with baseline 0. */
function findTEnd(leads, qrsOffset, ms) {
  const samples = leads[0].length;
  const reach = wholeSamples((T_WAVE.slope / 2) * ms);
  const slopes = leads.map((lead) => differences(lead, reach));
  const fine = Math.max(wholeSamples((T_WAVE.fine / 2) * ms), 1);
  const fast = velocity(leads.map((lead) => differences(lead, fine)));
  const next = nextQrs(fast, qrsOffset, ms);
  const of = (window) => window.map((state, t) => state && t < next);
  const window = of(
    within(qrsOffset + T_WAVE.from * ms, qrsOffset + T_WAVE.peakUntil * ms, samples),
  );
  const direction = mainDirection(leads.map((lead) => lead.map((v, t) => (window[t] ? v : 0))));
  const size = leads[0].map((_, t) =>
    Math.abs(leads.reduce((sum, lead, number) => sum + direction[number] * lead[t], 0)),
  );
  const peak = highestAt(size.map((value, t) => (window[t] ? value : 0)));
  const high = window.map(
    (state, t) =>
      state && size[t] >= T_WAVE.high * size[peak] && t <= peak + T_WAVE.biphasic * ms,
  );
  const last = high.lastIndexOf(true);
  const falling = of(within(last - T_WAVE.before * ms, last + T_WAVE.after * ms, samples));
  const [, end] = endsInLeads(slopes, falling, 1, T_WAVE.end);
  const seen = last >= 0 && end > last && end < samples - 1 - reach;
  return size[peak] > T_WAVE.height / 1000 && seen ? end : NaN;
}

// --- steps ---------------------------------------------------------------------------------------

/** Top of the velocity in the window, first and last sample at that share of it. */
function busy(speed, window, share) {
  const top = speed.reduce((best, value, t) => (window[t] && value > best ? value : best), 0);
  const states = Array.from(speed, (value, t) => window[t] && value >= share * top);
  const [first, last] = [states.indexOf(true), states.lastIndexOf(true)];
  return first < 0 ? [top, 0, speed.length - 1] : [top, first, last];
}

/** The lowest mean velocity over `QUIET_RUN` in a window. */
function quiet(speed, window, ms) {
  const size = Math.max(wholeSamples(QUIET_RUN * ms), 1);
  let lowest = Infinity;
  for (let t = 0; t < speed.length; t++) {
    if (!window[t]) continue;
    let sum = 0;
    for (let at = t - (size >> 1); at < t - (size >> 1) + size; at++) {
      sum += speed[mirrored(at, speed.length)];
    }
    lowest = Math.min(lowest, sum / size);
  }
  return lowest;
}

/** Where the spike of a pacemaker has gone, if the QRS seems to begin with one. */
function afterSpike(leads, onset, offset, ms) {
  const samples = leads[0].length;
  const start = Math.trunc(onset);
  const moved = velocity(leads.map((lead) => lead.map((value) => value - lead[start])));
  const inside = within(onset, offset, samples);
  const qrs = moved.reduce((best, value, t) => (inside[t] ? Math.max(best, value) : best), 0);
  const begin = Float64Array.from(
    { length: wholeSamples(SPIKE.window * ms) + 1 },
    (_, step) => moved[Math.min(start + step, samples - 1)],
  );
  const highest = risingMaximum(begin);
  const gone = begin.findIndex(
    (value, step) => value < SPIKE.back * highest[step] && highest[step] > SPIKE.height * qrs,
  );
  return onset + Math.max(gone, 0);
}

/** Sample before which the next QRS has not begun; T if it is not seen. */
function nextQrs(fast, qrsOffset, ms) {
  const end = qrsOffset + T_WAVE.from * ms;
  const top = fast.reduce((best, value, t) => (t > end ? best : Math.max(best, value)), 0);
  const at = fast.findIndex((value, t) => t > end && value > NEXT_QRS.share * top);
  return at < 0 ? fast.length : at - NEXT_QRS.lead * ms;
}

/** First and last time in a window at which leads are steep, the median over the leads. */
function endsInLeads(slopes, window, onsetShare, endShare) {
  const steep = slopes.map((slope) => slope.map((value, t) => (window[t] ? Math.abs(value) : 0)));
  const tops = steep.map((values) => values.reduce((best, value) => Math.max(best, value), 0));
  const least = LEAD_SHARE * Math.max(...tops);
  const counting = steep.map((_, lead) => lead).filter((l) => tops[l] >= least && tops[l] > 0);
  const onsets = counting.map(
    (lead) => steep[lead].length - 1 - lastAbove(steep[lead].toReversed(), onsetShare * tops[lead]),
  );
  return [median(onsets), median(counting.map((l) => lastAbove(steep[l], endShare * tops[l])))];
}

/** When values fall below a level for the last time, by straight lines. */
function lastAbove(values, level) {
  let last = values.length - 1;
  while (values[last] < level) last--;
  const [above, below] = [values[last], values[Math.min(last + 1, values.length - 1)]];
  return below > 0 && below < level ? last + (above - level) / (above - below) : last;
}

/** When the velocity in the window falls below the level for `run` samples. */
function firstRest(speed, window, level, run) {
  const resting = runs(
    Array.from(speed, (value) => value < level),
    run,
  );
  const at = resting.findIndex((state, t) => state && window[t]);
  if (at <= 0) return NaN;
  const [fast, slow] = [speed[at - 1], speed[at]];
  return at - 1 + (fast > level ? (fast - level) / (fast - slow) : 1);
}

/** Whether the state holds at each sample and for the `length` - 1 samples that follow. */
function runs(states, length) {
  return Array.from(states, (_, t) => {
    for (let at = t; at < t + length; at++) {
      if (!states[mirrored(at, states.length)]) return false;
    }
    return true;
  });
}

/** The direction (leads) along which the leads vary most around 0. */
function mainDirection(leads) {
  let matrix = leads.map((a) => leads.map((b) => a.reduce((sum, v, t) => sum + v * b[t], 0)));
  for (let round = 0; round < 24; round++) {
    // Squared again and again, nothing but the largest eigenvalue is left.
    const trace = matrix.reduce((sum, row, number) => sum + row[number], 0) || 1;
    const scaled = matrix.map((row) => row.map((value) => value / trace));
    matrix = scaled.map((row) =>
      scaled.map((column) => row.reduce((sum, value, number) => sum + value * column[number], 0)),
    );
  }
  const best = highestAt(matrix.map((row, number) => row[number]));
  const length = Math.hypot(...matrix[best]) || 1;
  return matrix[best].map((value) => value / length);
}

// --- filters and windows -------------------------------------------------------------------------

/** Gaussian filter of an SD in samples, or its derivative per sample (`order` 1). */
function smoothed(signal, sd, order = 0) {
  const radius = Math.floor(3 * sd + 0.5);
  const weights = Array.from({ length: 2 * radius + 1 }, (_, number) =>
    Math.exp(-0.5 * ((number - radius) / sd) ** 2),
  );
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const kernel = weights.map(
    (weight, number) => (weight / total) * (order ? (number - radius) / sd ** 2 : 1),
  );
  const padded = Float64Array.from(
    { length: signal.length + 2 * radius },
    (_, at) => signal[mirrored(at - radius, signal.length)],
  );
  const result = new Float64Array(signal.length);
  for (let t = 0; t < signal.length; t++) {
    for (let number = 0; number < kernel.length; number++) {
      result[t] += kernel[number] * padded[t + number];
    }
  }
  return result;
}

/** Slopes over `reach` samples on either side; 0 where that is beyond the window. */
function differences(signal, reach) {
  return Float64Array.from(signal, (_, t) =>
    t < reach || t >= signal.length - reach
      ? 0
      : (signal[t + reach] - signal[t - reach]) / (2 * reach),
  );
}

/** Length of the vector of all slopes, at each sample. */
function velocity(slopes) {
  const squares = new Float64Array(slopes[0].length);
  for (const slope of slopes) slope.forEach((value, t) => (squares[t] += value * value));
  return squares.map(Math.sqrt);
}

/** Whether start <= t <= end, at each sample; nowhere if either is NaN. */
function within(start, end, samples) {
  return Array.from({ length: samples }, (_, t) => t >= start && t <= end);
}

/** The sample that stands for one beyond the ends, where the signal is mirrored. */
function mirrored(at, samples) {
  let inside = at;
  while (inside < 0 || inside >= samples) {
    inside = inside < 0 ? -1 - inside : 2 * samples - 1 - inside;
  }
  return inside;
}

/** Rounded as Python does: halves to the even number. */
function wholeSamples(value) {
  const near = Math.round(value);
  return near - value === 0.5 && near % 2 ? near - 1 : near;
}

function risingMaximum(values) {
  let best = -Infinity;
  return values.map((value) => (best = Math.max(best, value)));
}

function highestAt(values) {
  return values.reduce((best, value, at) => (value > values[best] ? at : best), 0);
}

function median(values) {
  if (!values.length) return NaN;
  const ordered = values.toSorted((a, b) => a - b);
  const middle = (ordered.length - 1) / 2;
  return (ordered[Math.floor(middle)] + ordered[Math.ceil(middle)]) / 2;
}
