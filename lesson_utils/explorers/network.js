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
  const load = async ({ key, description, numbers }) => {
    const { buffer, byteOffset, byteLength } = numbers ?? {};
    const parts = numbers
      ? { description, bytes: buffer.slice(byteOffset, byteOffset + byteLength) }
      : await fromScripts(key);
    await engine({ job: "load", network: key, ...parts });
  };
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

/** All that the bound theorem speaks of, from Ψ(x) and the ∇Ψᵏ(x), as `lesson_utils.measure` has it. */
export function measures(x, scores, gradients) {
  const { winner, rival, value: tilde, normal } = linearized([...scores], gradients.map((g) => [...g]));
  const g = [...gradients[winner]], length = norm(x), homogeneous = dot(x, g);
  const unit = (v) => v.map((value) => value / norm(v));
  const alpha = alignment(x, g), beta = scores[winner] - homogeneous;
  const apart = normal ? norm(minus(unit(normal), unit(g))) : NaN;
  const psi = scores[winner] - scores[rival];
  const biasGap = normal ? Math.abs(psi - dot(x, normal)) / norm(normal) : NaN;
  return {
    winner, rival, tilde, alpha, homogeneous, beta, biasGap, g, normal,
    angle: (Math.acos(homogeneous / length / norm(g)) * 180) / Math.PI,
    directionGap: length * apart,
    bound: alpha + length * apart + biasGap,
    trivial: length + biasGap,
    degree: Math.abs(homogeneous) / (Math.abs(homogeneous) + Math.abs(beta)),
  };
}
