// Networks that a widget can ask: in a worker of this page, or in the kernel behind it.

const workers = {}; // one a page and engine: its networks are loaded once

/** Starts the engine; `ask(job)` promises its answer. */
function started(source) {
  const worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
  const waiting = new Map();
  worker.onmessage = ({ data: { id, result, error } }) => {
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    if (error) reject(new Error(error));
    else resolve(result);
  };
  let last = 0;
  return (job) => new Promise((resolve, reject) => {
    waiting.set(++last, { resolve, reject });
    worker.postMessage({ ...job, id: last });
  });
}

/** Loads a script of the book, from a server or from a file. */
const script = (address) => new Promise((resolve, reject) => {
  const node = make(document.head, "script", { src: address });
  node.onload = resolve;
  node.onerror = () => reject(new Error(`there is no ${address}`));
});

/** A network of the book: its scripts say what they hold by `lessonNetworks.push([name, part, parts, …])`. */
async function fromScripts(name) {
  const folder = `${document.documentElement.dataset.content_root ?? ""}_static/networks/`;
  const found = (k) => (window.lessonNetworks ?? []).find((part) => part[0] === name && part[1] === k);
  const texts = [];
  for (let k = 0, parts = 1; k < parts; k++) {
    if (!found(k)) await script(`${folder}${name}-${k}.js`);
    texts.push(found(k)[4]);
    parts = found(k)[2];
  }
  const bytes = texts.map((text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)));
  return { description: found(0)[3], bytes: await new Blob(bytes).arrayBuffer() };
}

/** Description and bytes of what lesson_utils.browser has packed: JupyterLab sent them, a page reads its scripts. */
async function unpacked({ key, description, numbers }) {
  if (!numbers) return fromScripts(key);
  const { buffer, byteOffset, byteLength } = numbers;
  return { description, bytes: buffer.slice(byteOffset, byteOffset + byteLength) };
}

/** Resolved once a place is on the screen: what no reader sees is not loaded. */
const seen = (place) => new Promise((resolve) => new IntersectionObserver(([entry], observer) => {
  if (!entry.isIntersecting) return;
  observer.disconnect();
  resolve();
}).observe(place));

/** Asks the kernel: for networks with layers that the engine does not know. */
function kernel(model) {
  const waiting = new Map();
  let last = 0;
  model.on("msg:custom", ({ id, result, error }) => {
    const { resolve, reject } = waiting.get(id) ?? {};
    waiting.delete(id);
    if (error) reject?.(new Error(error));
    else resolve?.(result);
  });
  return (job) => new Promise((resolve, reject) => {
    waiting.set(++last, { resolve, reject });
    model.send({ ...job, images: (job.images ?? [job.image]).map((image) => [...image]), image: undefined, id: last });
  });
}

/** `ask(name, job)` for the networks of a widget: the answer of the one with this name, loaded when first asked. */
export function asking(model, source) {
  const engine = (workers[source] ??= started(source)), loaded = {};
  const inKernel = kernel(model);
  const load = async (network) => engine({ job: "load", network: network.key, ...(await unpacked(network)) });
  return async (name, job) => {
    const network = model.get("networks").find((one) => one.name === name);
    if (network.kernel) return inKernel({ network: name, ...job });
    try {
      await (loaded[network.key] ??= load(network));
    } catch (error) {
      delete loaded[network.key]; // the next question tries again
      throw error;
    }
    return engine({ network: network.key, ...job });
  };
}

/** Scores and gradients once κ/2 · ‖x‖² is added to every score. */
export const raised = (x, { scores, gradients }, shift) => ({
  scores: scores.map((score) => score + (shift / 2) * dot(x, x)),
  gradients: gradients.map((g) => g.map((value, k) => value + shift * x[k])),
});

/** All that the bound theorem speaks of, from Ψ(x) and the ∇Ψᵏ(x), as `lesson_utils.measure` has it;
 *  map, α and β of another class than the winner if one is asked for. */
export function measures(x, scores, gradients, asked = -1) {
  const { winner, rival, value: tilde, normal } = linearized([...scores], gradients.map((g) => [...g]));
  const target = asked >= 0 && asked < scores.length ? asked : winner;
  const g = [...gradients[target]], length = norm(x), homogeneous = dot(x, g);
  const unit = (v) => v.map((value) => value / norm(v));
  const alpha = alignment(x, g), beta = scores[target] - homogeneous;
  const mean = g.map((_, k) => gradients.reduce((sum, one) => sum + one[k], 0) / gradients.length);
  const direction = normal ? length * norm(minus(unit(normal), unit(g))) : NaN;
  const black = normal ? (scores[winner] - scores[rival] - dot(x, normal)) / norm(normal) : NaN;
  const bias = Math.abs(black);
  return {
    winner, rival, target, tilde, alpha, homogeneous, beta, g, normal, direction, black, bias,
    score: scores[target],
    angle: (Math.acos(homogeneous / length / norm(g)) * 180) / Math.PI,
    binarized: normal ? alignment(x, normal) : NaN,
    centred: alignment(x, minus(g, mean)),
    bound: alpha + direction + bias,
    trivial: length + bias,
    degree: Math.abs(homogeneous) / (Math.abs(homogeneous) + Math.abs(beta)),
  };
}

// ---- pictures -------------------------------------------------------------------------------

const PICTURES = `
.explorer .draw { flex: 1 1 100%; display: flex; flex-wrap: wrap; gap: 8px 20px; min-width: 0; }
.explorer .draw canvas { flex: 0 1 260px; min-width: 0; touch-action: none; cursor: crosshair; }
.explorer .draw div { flex: 1 1 220px; min-width: 0; }
.explorer .net { flex: 1 1 260px; min-width: 0; }
.explorer .side { flex: 1 1 100%; }
.explorer canvas { width: 100%; aspect-ratio: 1; image-rendering: pixelated; display: block;
  background: white; border: 1px solid #59636e; box-sizing: border-box; }
.explorer canvas:focus-visible, .explorer select:focus-visible { outline: 3px solid ${INK}; outline-offset: 2px; }
.explorer select { font: inherit; max-width: 100%; color: ${INK}; background: white; border: 1px solid #59636e;
  border-radius: 4px; padding: 3px; grid-column: 1 / 3; }
.explorer .pictures { display: grid; grid-template-columns: 2fr 1fr; gap: 6px; margin-top: 6px; }
.explorer .pictures > :first-child { grid-row: 1 / 3; }
.explorer .pictures > :only-child { grid-column: 1 / 3; max-width: 260px; }
.explorer .caption { font-size: 14px; }
.explorer .net svg { max-width: 340px; flex: none; width: 100%; }
.explorer .net svg text { font-size: 14px; }
.explorer .buttons { margin: 6px 0; }
`;

// Brown below zero, purple above: matplotlib's PuOr, as in the figures of the book.
const SIGNED = ["7f3b08", "b35806", "e08214", "fdb863", "fee0b6", "f7f7f7", "d8daeb", "b2abd2", "8073ac", "542788", "2d004b"]
  .map((hex) => [0, 2, 4].map((k) => parseInt(hex.slice(k, k + 2), 16)));

/** Colour of t in [−1, 1]. */
function signed(t) {
  const place = 5 * (Math.min(1, Math.max(-1, t)) + 1), k = Math.min(9, Math.floor(place));
  return SIGNED[k].map((value, c) => value + (place - k) * (SIGNED[k + 1][c] - value));
}

/** Paints colour(row · width + column) on a canvas of one point a pixel. */
function paint(canvas, [, height, width], colour) {
  const data = new ImageData(width, height);
  for (let k = 0; k < width * height; k++) data.data.set([...colour(k), 255], 4 * k);
  Object.assign(canvas, { width, height }).getContext("2d").putImageData(data, 0, 0);
}

const paintImage = (canvas, shape, x) => {
  const area = shape[1] * shape[2];
  paint(canvas, shape, (k) => [0, 1, 2].map((c) => 255 * x[(c % shape[0]) * area + k]));
};

/** A signed picture, its colours centred on zero and summed over the channels. */
const paintSigned = (canvas, shape, v) => {
  const area = shape[1] * shape[2];
  const sums = Array.from({ length: area }, (_, k) => Array.from({ length: shape[0] }, (_, c) => v[c * area + k]).reduce((a, b) => a + b));
  const limit = Math.max(...sums.map(Math.abs)) || 1;
  paint(canvas, shape, (k) => signed(sums[k] / limit));
};

/** A picture with a caption; its label says what one sees. */
function figure(parent, caption, kind = "canvas", attributes = {}) {
  const box = make(parent, "div");
  const picture = make(box, kind, { role: "img", "aria-label": caption, ...attributes });
  make(box, "div", { class: "caption" }, caption);
  return picture;
}
