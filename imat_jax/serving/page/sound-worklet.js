/** In the audio thread: microphone sound at any rate to 16-bit mono at the service's rate. */

const HALF = 16; // zero crossings of the filter on either side
const PHASES = 256;

/** Windowed sinc (Blackman), cut off at the lower rate's half: table of [phase][tap]. */
function kernels(ratio) {
  const cut = 0.94 * Math.min(1, 1 / ratio);
  const half = Math.ceil(HALF / cut);
  const tables = [];
  for (let phase = 0; phase < PHASES; phase++) {
    const taps = new Float32Array(2 * half);
    let sum = 0;
    for (let k = 0; k < taps.length; k++) {
      const x = k - half + 1 - phase / PHASES;
      const t = x / half;
      const window = Math.abs(t) < 1 ? 0.42 + 0.5 * Math.cos(Math.PI * t) + 0.08 * Math.cos(2 * Math.PI * t) : 0;
      const sinc = x === 0 ? 1 : Math.sin(Math.PI * cut * x) / (Math.PI * cut * x);
      sum += taps[k] = sinc * window;
    }
    tables.push(taps.map((v) => v / sum));
  }
  return { half, tables };
}

class Sound extends AudioWorkletProcessor {
  constructor({ processorOptions: { rate, chunk } }) {
    super();
    this.step = sampleRate / rate; // input samples an output sample
    Object.assign(this, kernels(this.step));
    this.input = new Float32Array(2 * this.half); // what the next outputs may still need
    this.filled = this.half - 1; // silence before the first sample
    this.at = this.half - 1; // place of the next output in `input`
    this.chunk = new Int16Array(chunk);
    this.written = 0;
  }

  process([channels]) {
    if (!channels.length) return true;
    const size = channels[0].length;
    if (this.filled + size > this.input.length) {
      const larger = new Float32Array(2 * (this.filled + size));
      larger.set(this.input.subarray(0, this.filled));
      this.input = larger;
    }
    for (let i = 0; i < size; i++) {
      let sum = 0;
      for (const channel of channels) sum += channel[i];
      this.input[this.filled + i] = sum / channels.length;
    }
    this.filled += size;
    while (Math.floor(this.at) + this.half < this.filled) {
      this.write(this.one());
      this.at += this.step;
    }
    const keep = Math.floor(this.at) - this.half + 1;
    this.input.copyWithin(0, keep, this.filled);
    this.filled -= keep;
    this.at -= keep;
    return true;
  }

  one() {
    const whole = Math.floor(this.at);
    const taps = this.tables[Math.floor((this.at - whole) * PHASES)];
    const first = whole - this.half + 1;
    let sum = 0;
    for (let k = 0; k < taps.length; k++) sum += taps[k] * this.input[first + k];
    return sum;
  }

  write(value) {
    this.chunk[this.written++] = Math.max(-32768, Math.min(32767, Math.round(32767 * value)));
    if (this.written < this.chunk.length) return;
    this.port.postMessage(this.chunk.slice().buffer);
    this.written = 0;
  }
}

registerProcessor("sound", Sound);
