/* The model in the page: conditions as columns, persons as latents, latents as ECGs and risks.
 *
 * It does what data/conditions.py, model/prior.py, model/network.py, model/warp.py and model/cox.py
 * do, for one ECG at a time; network.py beside this file writes what it reads. An array is
 * {values, shape}, the last axis innermost, as in NumPy.
 *
 * Dims: C conditions as encoded, I leads that the network works on, L leads, T samples, Z latent.
 */
/** The described model with its numbers, 32-bit floats in base64, in reach. */
function openModel(description, base64) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const numbers = new Float32Array(bytes.buffer);
  const array = ([start, ...shape]) => ({
    values: numbers.subarray(start, start + shape.reduce((a, b) => a * b, 1)),
    shape,
  });
  return { ...description, array };
}

// --- conditions ----------------------------------------------------------------------------------

/** Values by name, null for unknown, as the columns (C) that the network reads. */
function encodeConditions(model, values) {
  return Float32Array.from(
    model.conditions.flatMap((condition) => {
      const value = values[condition.name];
      const known = value !== null && value !== undefined;
      const code = condition.kind === "continuous" ? value : condition.categories.indexOf(value);
      if (condition.kind === "categorical") {
        return condition.categories.map((_, number) => (known && number === code ? 1 : 0));
      }
      if (model.encoding === "raw") return [code];
      if (condition.kind === "binary") return [known ? 2 * code - 1 : 0];
      return known ? [(code - condition.mean) / condition.sd, 1] : [0, 0];
    }),
  );
}

// --- persons -------------------------------------------------------------------------------------

/** Uniform numbers in [0, 1) from a whole number (Mulberry32). */
function randomNumbers(seed) {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** u (Z) of a person who is drawn from the prior's mixture; person 0 is its mean. */
function drawPerson(model, person) {
  const { weights, means, factors, scales } = model.prior;
  const mixture = model.array(means);
  const [, sizes, z] = mixture.shape;
  if (!person) return Float64Array.from(model.latent, (one) => one.centre);
  const random = randomNumbers(person);
  const shares = model.array(weights).values;
  let [component, left] = [0, random()];
  while (component < shares.length - 1 && left >= shares[component]) left -= shares[component++];
  const noise = Array.from({ length: z }, () => {
    const radius = Math.sqrt(-2 * Math.log(1 - random())); // Box and Muller
    return radius * Math.cos(2 * Math.PI * random());
  });
  const factor = model.array(factors).values.subarray(Math.floor(component / sizes) * z * z);
  const scale = model.array(scales).values[component % sizes];
  return Float64Array.from({ length: z }, (_, row) => {
    let sum = 0;
    for (let column = 0; column <= row; column++) sum += factor[row * z + column] * noise[column];
    return mixture.values[component * z + row] + scale * sum;
  });
}

/** Mean and SD (Z) of the latent at encoded conditions. */
function priorMoments(model, encoded) {
  const [mean, logSd] = [model.prior.mean, model.prior.log_sd].map((place) => {
    const { values, shape } = model.array(place);
    return Float64Array.from({ length: shape[1] }, (_, column) => {
      let sum = values[column];
      encoded.forEach((one, row) => (sum += one * values[(row + 1) * shape[1] + column]));
      return sum;
    });
  });
  return { mean, sd: logSd.map(Math.exp) };
}

/** z = mean(c) + sd(c) v, v = u + coupling(c) v: the same person at other conditions keeps u. */
function latentAt(model, encoded, u) {
  const { mean, sd } = priorMoments(model, encoded);
  const { values: coupling, shape } = model.array(model.prior.coupling);
  const [design, z] = [[1, ...encoded], shape[1]];
  const v = Float64Array.from(u);
  for (let number = 1; number < z; number++) {
    design.forEach((one, row) => {
      const start = (row * z + number) * z;
      for (let earlier = 0; earlier < number; earlier++) {
        v[number] += one * coupling[start + earlier] * v[earlier];
      }
    });
  }
  return mean.map((centre, number) => centre + sd[number] * v[number]);
}

// --- the decoder ---------------------------------------------------------------------------------

const OPERATIONS = {
  concatenate: (_, inputs) => {
    const values = Float64Array.from(inputs.flatMap((one) => [...one.values]));
    return { values, shape: [values.length] };
  },
  add: (_, [first, second]) => ({
    values: first.values.map((value, number) => value + second.values[number]),
    shape: first.shape,
  }),
  reshape: (step, [input]) => ({ values: input.values, shape: step.shape }),
  dense: (step, [input], array) => {
    const { values: kernel, shape } = array(step.kernel);
    const output = biased(step, shape[1], shape[1], array);
    for (let row = 0, at = 0; row < shape[0]; row++) {
      const factor = input.values[row];
      for (let column = 0; column < shape[1]; column++, at++) {
        output[column] += factor * kernel[at];
      }
    }
    return { values: activated(step, output), shape: [shape[1]] };
  },
  normalise: (step, [input], array) => {
    const [scale, shift] = [array(step.scale).values, array(step.shift).values];
    const scaled = (value, number) =>
      value * scale[number % scale.length] + shift[number % scale.length];
    return { values: input.values.map(scaled), shape: input.shape };
  },
  repeat: (_, [input]) => {
    const [leads, samples, channels] = input.shape;
    const values = new Float64Array(2 * input.values.length);
    for (let at = 0; at < leads * samples; at++) {
      const one = input.values.subarray(at * channels, (at + 1) * channels);
      values.set(one, 2 * at * channels);
      values.set(one, (2 * at + 1) * channels);
    }
    return { values, shape: [leads, 2 * samples, channels] };
  },
  crop: (_, [input]) => {
    const [leads, samples, channels] = input.shape;
    const row = samples * channels;
    const kept = (value, number) => number % row < row - channels;
    return { values: input.values.filter(kept), shape: [leads, samples - 1, channels] };
  },
  convolve: (step, [input], array) => transposedConvolution(step, input, array),
  warp: (step, [deviation, speeds], array) => timeWarp(step, deviation, speeds, array),
};

/** `Conv2DTranspose` of stride 1: (leads, samples, F) -> (leads', samples', G). */
function transposedConvolution(step, input, array) {
  const { values: kernel, shape } = array(step.kernel);
  const [height, width, outputs, inputs] = shape;
  const [leads, samples] = input.shape;
  const before = step.same ? [(height - 1) >> 1, (width - 1) >> 1] : [0, 0];
  const rows = step.same ? leads : leads + height - 1;
  const columns = step.same ? samples : samples + width - 1;
  const output = biased(step, rows * columns * outputs, outputs, array);
  for (let lead = 0; lead < leads; lead++) {
    for (let f = 0; f < inputs; f++) {
      const signal = channel(input.values, lead * samples, samples, f, inputs);
      for (let a = 0; a < height; a++) {
        const row = lead + a - before[0];
        if (row < 0 || row >= rows) continue;
        for (let g = 0; g < outputs; g++) {
          const taps = channel(kernel, a * width, width, g * inputs + f, outputs * inputs);
          const place = { start: row * columns * outputs + g, stride: outputs, length: columns };
          addConvolved(output, place, signal, taps, before[1]);
        }
      }
    }
  }
  return { values: activated(step, output), shape: [rows, columns, outputs] };
}

/** One of the channels that alternate in an array, from a place on. */
function channel(values, start, length, number, channels) {
  const found = new Float64Array(length);
  for (let t = 0; t < length; t++) found[t] = values[(start + t) * channels + number];
  return found;
}

/** Adds a signal convolved with taps, whose middle is at `before`, to every `stride`th value. */
function addConvolved(output, { start, stride, length }, signal, taps, before) {
  for (let to = 0; to < length; to++) {
    const first = Math.max(0, to + before - signal.length + 1);
    const last = Math.min(taps.length - 1, to + before);
    let sum = 0;
    for (let b = first; b <= last; b++) sum += taps[b] * signal[to + before - b];
    output[start + to * stride] += sum;
  }
}

/** See model/warp.py: the beat read off faster in one part and slower in another. */
function timeWarp(step, deviation, speeds, array) {
  const [leads, samples] = deviation.shape;
  const between = array(step.between).values; // (knots, T)
  const [profile, meanBeat] = [array(step.profile).values, array(step.mean_beat).values];
  const late = new Float64Array(samples);
  let sum = 0;
  for (let t = 0; t < samples; t++) {
    let speed = 0;
    speeds.values.forEach((one, knot) => (speed += one * between[knot * samples + t]));
    sum += Math.expm1(step.fastest * Math.tanh(speed));
    late[t] = sum;
  }
  const lost = late[step.fiducial];
  const values = new Float64Array(leads * samples);
  for (let t = 0; t < samples; t++) {
    const source = Math.min(Math.max(t + late[t] - lost, 0), samples - 1);
    const before = Math.min(Math.floor(source), samples - 2);
    const share = source - before;
    for (let lead = 0; lead < leads; lead++) {
      const at = lead * samples + t;
      const left = lead * samples + before;
      const right = left + 1;
      const early = deviation.values[left] * profile[left] + meanBeat[left];
      const next = deviation.values[right] * profile[right] + meanBeat[right];
      values[at] = (early + share * (next - early) - meanBeat[at]) / profile[at];
    }
  }
  return { values, shape: deviation.shape };
}

/** Zeros, or the bias of each of the channels over and over. */
function biased(step, length, channels, array) {
  const output = new Float64Array(length);
  if (!step.bias) return output;
  const bias = array(step.bias).values;
  return output.map((_, number) => bias[number % channels]);
}

function activated(step, values) {
  return step.elu ? values.map((value) => (value > 0 ? value : Math.expm1(value))) : values;
}

/** The expected ECG of a latent (Z) at encoded conditions (C): for each lead T samples in mV. */
function decode(model, z, encoded) {
  const results = [
    { values: z, shape: [z.length] },
    { values: encoded, shape: [encoded.length] },
  ];
  for (const step of model.decoder) {
    const inputs = step.inputs.map((number) => results[number]);
    results.push(OPERATIONS[step.kind](step, inputs, model.array));
  }
  const [unit, beat] = [model.array(model.unit).values, model.array(model.mean_beat).values];
  const [rows, samples] = model.array(model.mean_beat).shape;
  const ecg = results.at(-1).values.map((value, at) => value * unit[at] + beat[at]);
  const own = Array.from({ length: rows }, (_, lead) =>
    ecg.subarray(lead * samples, (lead + 1) * samples),
  );
  if (!model.expansion) return own;
  const expansion = model.array(model.expansion).values; // (L, I)
  return model.leads.map((name, lead) => {
    const values = new Float64Array(samples);
    for (let row = 0; row < rows; row++) {
      const factor = expansion[lead * rows + row];
      if (factor) own[row].forEach((value, t) => (values[t] += factor * value));
    }
    return values;
  });
}

// --- the head ------------------------------------------------------------------------------------

/** What the head makes of a latent: log hazard, logits or a number, as `predict_head` does. */
function headOutput(model, z, encoded) {
  const inputs = model.head.told ? [...z, ...encoded] : [...z];
  const input = { values: inputs, shape: [inputs.length] };
  const { values } = OPERATIONS.dense(model.head, [input], model.array);
  return [...values].map((value) => model.head.mean + model.head.sd * value);
}

/** Probability of no event up to each of the head's times. */
function survivalCurve(model, logHazard) {
  const relative = Math.min(Math.exp(logHazard), Number.MAX_VALUE); // 0 times infinity is NaN
  return model.head.hazard.map((hazard) => Math.exp(-hazard * relative));
}
