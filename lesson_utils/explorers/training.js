// Robust training in the browser: double backpropagation by hand, for an MLP with one hidden layer.
// This follows engine.js in the worker, and uses its sums.

const SIZES = [64, 100, 10]; // of lesson 8

/** The parameters of an MLP as parts of one list of numbers, in the order of its description. */
function parts(numbers, [inputs, hidden, classes] = SIZES) {
  let used = 0;
  const take = (count) => numbers.subarray(used, (used += count));
  return { W: take(hidden * inputs), b: take(hidden), V: take(classes * hidden), c: take(classes) };
}
const count = ([inputs, hidden, classes] = SIZES) => hidden * (inputs + 1) + classes * (hidden + 1);

/** M += v·wᵀ */
function addOuter(matrix, v, w) {
  for (let i = 0; i < v.length; i++) if (v[i] !== 0) add(matrix, i * w.length, v[i], w, 0, w.length);
}

/** mean ℓ + λ · mean ‖∇ₓℓ‖² of a batch, and its gradient by the parameters.
 *
 *  A dot marks the derivative of λ‖g‖² by a quantity of the first backward pass, a bar that of
 *  the whole objective by one of the forward pass. Each line follows from the one of the same
 *  quantity: g = Wᵀu gives u̇ = W·ġ and a part u·ġᵀ of the derivative by W, and so on. */
function objective(numbers, images, labels, strength, sizes = SIZES) {
  const { W, b, V, c } = parts(numbers, sizes), zero = new Float64Array(sizes[2]);
  const gradient = new Float64Array(numbers.length), d = parts(gradient, sizes);
  let loss = 0, penalty = 0;
  images.forEach((x, n) => {
    // forward: x ↦ a ↦ h ↦ s ↦ p
    const a = times(W, x, b);
    const open = (v) => v.map((value, k) => (a[k] > 0 ? value : 0));
    const h = open(a), s = times(V, h, c), most = Math.max(...s);
    const e = s.map((value) => Math.exp(value - most)), sum = e.reduce((u, v) => u + v);
    const p = e.map((value) => value / sum);
    loss += Math.log(sum) + most - s[labels[n]];
    // backward: δ = ∂ℓ/∂s, u = ∂ℓ/∂a, g = ∂ℓ/∂x
    const delta = p.slice();
    delta[labels[n]] -= 1;
    const u = open(transposed(V, delta)), g = transposed(W, u);
    penalty += g.reduce((total, value) => total + value * value, 0);
    // backward through the backward pass, from ‖g‖² to s
    const gDot = g.map((value) => 2 * strength * value);
    const uDot = open(times(W, gDot, new Float64Array(sizes[1])));
    const deltaDot = times(V, uDot, zero);
    const mean = p.reduce((total, value, k) => total + value * deltaDot[k], 0);
    const sBar = delta.map((value, k) => value + p[k] * (deltaDot[k] - mean)); // ∂p/∂s = diag(p) − p·pᵀ
    addOuter(d.W, u, gDot);
    addOuter(d.V, delta, uDot);
    // and through the forward pass, as ever
    const aBar = open(transposed(V, sBar));
    addOuter(d.V, sBar, h);
    add(d.c, 0, 1, sBar, 0, sBar.length);
    addOuter(d.W, aBar, x);
    add(d.b, 0, 1, aBar, 0, aBar.length);
  });
  const share = 1 / images.length;
  return { loss: loss * share, penalty: penalty * share, gradient: gradient.map((value) => value * share) };
}

const trained = {};

Object.assign(JOBS, {
  objective: ({ numbers, images, labels, strength, sizes }) => objective(numbers, images, labels, strength, sizes),
  /** Fresh weights as PyTorch draws them, uniform in ±1/√inputs; the same for the same seed. */
  begin({ network: key, seed }) {
    const numbers = new Float64Array(count()), random = randomFrom(seed), { W, b, V, c } = parts(numbers);
    for (const [part, inputs] of [[W, SIZES[0]], [b, SIZES[0]], [V, SIZES[1]], [c, SIZES[1]]])
      part.forEach((_, k) => { part[k] = (2 * random() - 1) / Math.sqrt(inputs); });
    const dense = (part, bias) => ({ kind: "dense", sizes: { weight: part.length, bias: bias.length } });
    networks[key] = network({ shape: [SIZES[0]], layers: [dense(W, b), { kind: "relu", sizes: {} }, dense(V, c)] }, numbers);
    trained[key] = { numbers, random, steps: 0, first: new Float64Array(count()), second: new Float64Array(count()) };
  },
  /** One epoch of Adam, in batches of 64 in a random order. */
  epoch({ network: key, images, labels, strength }) {
    const state = trained[key], { numbers, first, second } = state;
    const order = images.map((_, k) => [state.random(), k]).sort((a, b) => a[0] - b[0]).map(([, k]) => k);
    let last;
    for (let from = 0; from < order.length; from += 64) {
      const batch = order.slice(from, from + 64);
      last = objective(numbers, batch.map((k) => images[k]), batch.map((k) => labels[k]), strength);
      const t = ++state.steps;
      last.gradient.forEach((value, k) => {
        first[k] = 0.9 * first[k] + 0.1 * value;
        second[k] = 0.999 * second[k] + 0.001 * value * value;
        numbers[k] -= (1e-3 * first[k]) / (1 - 0.9 ** t) / (Math.sqrt(second[k] / (1 - 0.999 ** t)) + 1e-8);
      });
    }
    return { loss: last.loss, penalty: last.penalty };
  },
});
