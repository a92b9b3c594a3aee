// Networks in the browser: scores and their gradients by the input, in double precision. It runs
// in a worker of its own, so that a page never waits (see `connect` in network.js).
//
// A layer is a function f, made for the shape of its input. `forward` gives f(x) and remembers
// what the derivative at x needs; `vjp` gives vᵀ·f′(x), a vector of the input's size. The chain
// rule is then a loop. Images lie in memory as (row, column, channel): what a convolution
// multiplies is contiguous.

/** f(x) = scale · x + shift, one number of each a channel: a normalisation.  vᵀf′ = scale · v */
function normalization({ scale, shift }, shape) {
  const channels = scale.length;
  return {
    shape,
    forward: (x) => x.map((value, k) => scale[k % channels] * value + shift[k % channels]),
    vjp: (v) => v.map((value, k) => scale[k % channels] * value),
  };
}

/** f(x) = Wx + b.  vᵀf′ = Wᵀv */
function dense({ weight, bias }) {
  return {
    shape: [bias.length],
    forward: (x) => times(weight, x, bias),
    vjp: (v) => transposed(weight, v),
  };
}

/** f(x)[i, j] = W · patch + b, a dense layer on each square patch of x; x is zero beyond its edge.
 *  vᵀf′ is the sum of Wᵀ · v[i, j], each at the place of its patch */
function convolution({ weight, bias, size, stride, padding }, [height, width, channels]) {
  const outputs = bias.length, row = size * channels, wide = (width + 2 * padding) * channels;
  const rows = Math.floor((height + 2 * padding - size) / stride) + 1;
  const columns = Math.floor((width + 2 * padding - size) / stride) + 1;
  const framed = () => new Float64Array((height + 2 * padding) * wide);
  /** Calls f(first place in the frame, in the vector, length) for each row of one of `count` pieces. */
  const rowsOfImage = (f) => {
    for (let i = 0; i < height; i++) f((i + padding) * wide + padding * channels, i * width * channels, width * channels);
  };
  const rowsOfPatch = (i, j, f) => {
    for (let a = 0; a < size; a++) f((i * stride + a) * wide + j * stride * channels, a * row, row);
  };
  const eachPatch = (f) => {
    for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) f(i, j, (i * columns + j) * outputs);
  };
  return {
    shape: [rows, columns, outputs],
    forward(x) {
      const frame = framed(), patch = new Float64Array(size * row), result = new Float64Array(rows * columns * outputs);
      rowsOfImage((to, from, n) => frame.set(x.subarray(from, from + n), to));
      eachPatch((i, j, at) => {
        rowsOfPatch(i, j, (from, to, n) => patch.set(frame.subarray(from, from + n), to));
        result.set(times(weight, patch, bias), at);
      });
      return result;
    },
    vjp(v) {
      const frame = framed(), result = new Float64Array(height * width * channels);
      eachPatch((i, j, at) => {
        const patch = transposed(weight, v.subarray(at, at + outputs));
        rowsOfPatch(i, j, (to, from, n) => add(frame, to, 1, patch, from, n));
      });
      rowsOfImage((from, to, n) => result.set(frame.subarray(from, from + n), to));
      return result;
    },
  };
}

/** f(x) = max(x, 0).  vᵀf′ = v where x > 0, else 0 */
function relu(_, shape) {
  let input;
  return {
    shape,
    forward: (x) => (input = x).map((value) => (value > 0 ? value : 0)),
    vjp: (v) => v.map((value, k) => (input[k] > 0 ? value : 0)),
  };
}

/** f(x) = the largest of each square, the first at a tie.  vᵀf′ = v at the place of the largest */
function pooling({ size, stride }, [height, width, channels]) {
  const rows = Math.floor((height - size) / stride) + 1, columns = Math.floor((width - size) / stride) + 1;
  const places = new Int32Array(rows * columns * channels);
  return {
    shape: [rows, columns, channels],
    forward(x) {
      return Float64Array.from(places, (_, at) => {
        const c = at % channels, j = Math.floor(at / channels) % columns, i = Math.floor(at / channels / columns);
        let best = (i * width + j) * stride * channels + c;
        for (let a = 0; a < size; a++)
          for (let b = 0; b < size; b++) {
            const place = ((i * stride + a) * width + j * stride + b) * channels + c;
            if (x[place] > x[best]) best = place;
          }
        places[at] = best;
        return x[best];
      });
    },
    vjp(v) {
      const result = new Float64Array(height * width * channels);
      v.forEach((value, at) => { result[places[at]] += value; });
      return result;
    },
  };
}

/** f(x) = x in the order of PyTorch, (channel, row, column).  vᵀf′ = v in the order of x */
function flatten(_, [height, width, channels]) {
  const area = height * width;
  return {
    shape: [area * channels],
    forward: (x) => x.map((_, k) => x[(k % area) * channels + Math.floor(k / area)]),
    vjp: (v) => v.map((_, k) => v[(k % channels) * area + Math.floor(k / channels)]),
  };
}

/** Wx + b, four rows of W at once: each x[k] is read once for the four. */
function times(weight, x, bias) {
  const n = x.length, m = bias.length, result = bias.slice();
  let o = 0;
  for (; o + 3 < m; o += 4) {
    const p = o * n, q = p + n, r = q + n, u = r + n;
    let a = 0, b = 0, c = 0, d = 0;
    for (let k = 0; k < n; k++) {
      a += weight[p + k] * x[k];
      b += weight[q + k] * x[k];
      c += weight[r + k] * x[k];
      d += weight[u + k] * x[k];
    }
    result[o] += a;
    result[o + 1] += b;
    result[o + 2] += c;
    result[o + 3] += d;
  }
  for (; o < m; o++) for (let k = 0; k < n; k++) result[o] += weight[o * n + k] * x[k];
  return result;
}

/** Wᵀv. After ReLU and max pooling most of v is zero. */
function transposed(weight, v) {
  const n = weight.length / v.length, result = new Float64Array(n);
  for (let o = 0; o < v.length; o++) if (v[o] !== 0) add(result, 0, v[o], weight, o * n, n);
  return result;
}

/** a[i + k] += factor · b[j + k], k < n */
function add(a, i, factor, b, j, n) {
  for (let k = 0; k < n; k++) a[i + k] += factor * b[j + k];
}

const LAYERS = { normalization, dense, convolution, relu, pooling, flatten };

/** The network of a description (lesson_utils/browser.py); its numbers stand one after the other in `numbers`. */
function network({ shape, layers }, numbers) {
  const image = shape.length === 3;
  let here = image ? [shape[1], shape[2], shape[0]] : shape, used = 0;
  const order = image && flatten(null, here); // x and its gradients come and go in the order of PyTorch
  const take = (count) => numbers.subarray(used, (used += count));
  const parts = layers.map(({ kind, sizes, ...options }) => {
    for (const [name, count] of Object.entries(sizes)) options[name] = take(count);
    const part = LAYERS[kind](options, here);
    here = part.shape;
    return part;
  });
  const forward = (x) => parts.reduce((value, part) => part.forward(value), image ? order.vjp(x) : x);
  const vjp = (v) => parts.reduceRight((vector, part) => part.vjp(vector), v);
  const unit = (k) => Float64Array.from({ length: here[0] }, (_, j) => Number(j === k));
  return {
    /** Ψ(x) */
    scores: forward,
    /** Ψ(x) and ∇Ψᵏ(x) of the classes that `classes` picks: one forward, then one backward pass each */
    gradients(x, classes = (scores) => [...scores.keys()]) {
      const scores = forward(x);
      const gradient = (k) => (image ? order.forward(vjp(unit(k))) : vjp(unit(k)));
      return { scores, gradients: classes(scores).map(gradient) };
    },
  };
}

/** Numbers of 2, 4 or 8 bytes each, little-endian, as doubles. */
function numbersOf(bytes, width) {
  const data = new DataView(bytes);
  const half = (bits) => {
    const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
    return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
  };
  const read = {
    2: (at) => half(data.getUint16(at, true)),
    4: (at) => data.getFloat32(at, true),
    8: (at) => data.getFloat64(at, true),
  }[width];
  return Float64Array.from({ length: bytes.byteLength / width }, (_, k) => read(k * width));
}

const networks = {};
const JOBS = {
  load({ network: key, description, bytes }) {
    networks[key] = network(description, numbersOf(bytes, description.width));
  },
  scores: ({ network: key, images }) => images.map(networks[key].scores),
  map: ({ network: key, image }) => networks[key].gradients(image, (scores) => [scores.indexOf(Math.max(...scores))]),
  gradients: ({ network: key, image }) => networks[key].gradients(image),
};

onmessage = ({ data }) => {
  try {
    postMessage({ id: data.id, result: JOBS[data.job](data) });
  } catch (error) {
    postMessage({ id: data.id, error: String(error) });
  }
};
