// Shared by the explorers of the book: the formulas, a plane to draw on, handles and controls.
// Each explorer is this file followed by its own (see lesson_utils/widgets.py).

// ---- formulas -------------------------------------------------------------------------------

export const dot = (a, b) => a.reduce((sum, value, k) => sum + value * b[k], 0);
export const norm = (a) => Math.hypot(...a);
export const minus = (a, b) => a.map((value, k) => value - b[k]);
/** a + t·b */
export const step = (a, t, b) => a.map((value, k) => value + t * b[k]);

/** α = |⟨x, g⟩| / ‖g‖; NaN where g = 0. */
export const alignment = (x, g) => Math.abs(dot(x, g)) / norm(g);

/** Logits of an affine classifier, Ψ^i(x) = ⟨x, w_i⟩ + b_i. */
export const logits = (weight, bias, x) => weight.map((w, i) => dot(w, x) + bias[i]);

/** Linearized robustness from logits and their gradients; exact for affine classifiers. */
export function linearized(scores, gradients) {
  const winner = scores.indexOf(Math.max(...scores));
  let best = { value: Infinity, winner, rival: -1, normal: null };
  scores.forEach((score, j) => {
    const normal = minus(gradients[winner], gradients[j]);
    const value = (scores[winner] - score) / norm(normal);
    if (j !== winner && norm(normal) > 0 && value < best.value) {
      best = { value, winner, rival: j, normal };
    }
  });
  return best;
}

/** Where the nearest linearized boundary is met: x − ρ̃ · normal / ‖normal‖. */
export const footOf = (x, { value, normal }) => step(x, -value / norm(normal), normal);

/** Nearest point of the segment from a to b. */
export function nearestOnSegment(x, a, b) {
  const along = minus(b, a);
  const length = dot(along, along);
  const share = length > 0 ? dot(minus(x, a), along) / length : 0;
  return step(a, Math.min(1, Math.max(0, share)), along);
}

/** Edges of a polygon given by its corners in order. */
export const edges = (polygon) => polygon.map((a, k) => [a, polygon[(k + 1) % polygon.length]]);

/** Whether x lies in a convex polygon, up to rounding; the corners may run either way. */
export function contains(polygon, x) {
  const turns = edges(polygon).map(
    ([a, b]) => (b[0] - a[0]) * (x[1] - a[1]) - (b[1] - a[1]) * (x[0] - a[0]),
  );
  return turns.every((t) => t > -1e-12) || turns.every((t) => t < 1e-12);
}

/** Part of a convex polygon where ⟨y, normal⟩ + offset ≥ 0. */
export function clip(polygon, normal, offset) {
  return edges(polygon).flatMap(([a, b]) => {
    const [u, v] = [dot(a, normal) + offset, dot(b, normal) + offset];
    const kept = u >= 0 ? [a] : [];
    return u * v < 0 ? [...kept, step(a, u / (u - v), minus(b, a))] : kept;
  });
}

/** Part of the square |y_k| ≤ view on which class i of an affine classifier wins. */
export function cell(weight, bias, i, view) {
  let polygon = [[-view, -view], [view, -view], [view, view], [-view, view]];
  weight.forEach((w, j) => {
    if (j !== i) polygon = clip(polygon, minus(weight[i], w), bias[i] - bias[j]);
  });
  return polygon;
}

// ---- values of the state as texts of the page's address, and back; undefined for what is no value ----

const number = (text) => (text.trim() && Number.isFinite(Number(text)) ? Number(text) : undefined);
const short = (value) => String(Number(value.toPrecision(6)));
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
export const between = (low, high) => ({
  text: short,
  value: (text) => (number(text) === undefined ? undefined : clamp(number(text), low, high)),
});
export const TICK = { text: String, value: (text) => ({ true: true, false: false })[text] };
export const WHOLE = { text: String, value: (text) => (/^\d{1,9}$/.test(text) ? Number(text) : undefined) };
/** A list of n numbers, none beyond ±limit. */
export const list = (n, limit = Infinity) => ({
  text: (values) => values.map(short).join(),
  value(text) {
    const values = text.split(",").map(number);
    const good = values.length === n && !values.includes(undefined);
    return good ? values.map((value) => clamp(value, -limit, limit)) : undefined;
  },
});
/** One of some names. */
export const oneOf = (names) => ({ text: String, value: (text) => (names.includes(text) ? text : undefined) });

// ---- drawing --------------------------------------------------------------------------------

const SIZE = 440; // of the drawing, in its own units; the page scales it
const REGIONS = ["#cfe3f1", "#fbe0cc", "#cdeadf", "#f2dfeb", "#faedc4", "#e3e3e3"];
export const INK = "#222222", BLUE = "#0072B2", RUST = "#B34700", GREEN = "#00664B";
const STYLE = `
.explorer { background: white; color: ${INK}; color-scheme: light; border: 1px solid #8c959f;
  border-radius: 6px; padding: 12px; margin: 0 auto; max-width: 760px; box-sizing: border-box;
  font: 16px/1.45 system-ui, sans-serif; display: flex; flex-wrap: wrap; gap: 8px 20px; }
.explorer svg { flex: 1 1 300px; max-width: 440px; min-width: 0; height: auto; display: block; }
.explorer .side { flex: 1 1 250px; min-width: 0; }
.explorer svg text { font: 17px system-ui, sans-serif; fill: ${INK}; paint-order: stroke; stroke: white; stroke-width: 4px; stroke-linejoin: round; }
.explorer [role=slider] { cursor: grab; outline: none; }
.explorer [role=slider]:focus-visible .ring { stroke: ${INK}; stroke-width: 3; }
.explorer table { border-collapse: collapse; margin: 0 0 8px; width: 100%; color: inherit; }
.explorer tr, .explorer th, .explorer td { background: white; color: ${INK}; border: 0; }
.explorer th { text-align: left; font-weight: normal; padding: 3px 8px 3px 0; }
.explorer td { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; padding: 3px 0; }
.explorer tr { border-bottom: 1px solid #d0d7de; }
.explorer label { display: grid; grid-template-columns: 1fr auto; margin: 4px 0; color: ${INK}; }
.explorer label.tick { grid-template-columns: auto 1fr; gap: 8px; }
.explorer input[type=range] { grid-column: 1 / 3; width: 100%; margin: 2px 0; accent-color: ${BLUE}; }
.explorer input:focus-visible, .explorer button:focus-visible { outline: 3px solid ${INK}; outline-offset: 2px; }
.explorer button { font: inherit; padding: 3px 12px; color: ${INK}; background: #f0f2f4;
  border: 1px solid #59636e; border-radius: 4px; cursor: pointer; }
.explorer p { margin: 8px 0 0; color: ${INK}; }
.explorer .share { margin-top: 8px; }
.explorer output { overflow-wrap: anywhere; }
.explorer .said { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
@media print { .explorer label, .explorer button, .explorer .share { display: none; } }
`;

const SVG = "http://www.w3.org/2000/svg";
export const make = (parent, name, attributes = {}, text = "") => {
  const svg = parent instanceof SVGElement || name === "svg";
  const node = svg ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text) node.textContent = text;
  return parent.appendChild(node);
};

// JupyterLab takes the arrow keys for its own commands, unless the element in focus says this.
export const OWN_KEYS = { "data-lm-suppress-shortcuts": true };

/** An explorer: what it shows at the left, made by `stage`; a column of numbers and controls at the right. */
export function panel(el, model, stage, clear = () => {}) {
  const root = make(el, "div", { class: "explorer" });
  make(root, "style").textContent = STYLE;
  stage(root);
  const side = make(root, "div", { class: "side" });
  const table = make(make(side, "table"), "tbody");
  const drawings = [], watched = new Set();
  const tell = (key, value) => { model.set(key, value); model.save_changes(); };
  const draw = () => { clear(); drawings.forEach((f) => f()); };

  const ui = {
    root, side, tell, redraw: draw,
    /** Run f now and at every change of the state, whether by hand or from Python. */
    draw(keys, f) {
      drawings.push(f);
      keys.filter((key) => !watched.has(key)).forEach((key) => model.on(`change:${key}`, draw));
      keys.forEach((key) => watched.add(key)); // one redrawing a change, however many ask for it
      f();
    },
    /** A number of the state with a slider. */
    slider(key, name, low, high, parent = side) {
      const label = make(parent, "label", {}, name);
      const value = make(label, "span"); // no output, which would be read aloud at each step
      const range = { type: "range", min: low, max: high, step: (high - low) / 100, "aria-label": name };
      const input = make(label, "input", { ...range, ...OWN_KEYS });
      input.addEventListener("input", () => tell(key, Number(input.value)));
      ui.draw([key], () => { input.value = model.get(key); value.textContent = model.get(key).toFixed(2); });
    },
    /** A yes or no of the state with a tick box. */
    tick(key, name) {
      const label = make(side, "label", { class: "tick" });
      const input = make(label, "input", { type: "checkbox", ...OWN_KEYS });
      make(label, "span", {}, name);
      input.addEventListener("input", () => tell(key, input.checked));
      ui.draw([key], () => { input.checked = model.get(key); });
    },
    /** A button that puts these parts of the state back to where they are now. */
    again(keys) {
      const start = keys.map((key) => [key, model.get(key)]);
      return ui.button("Start again", () => start.forEach(([key, value]) => tell(key, value)));
    },
    button(name, f, parent = side) {
      const button = make(parent, "button", { type: "button", ...OWN_KEYS }, name);
      button.addEventListener("click", f);
      return button;
    },
    sentence: () => make(side, "p", { "aria-live": "polite" }),
    /** Tell a screen reader f() once these parts of the state have come to rest; nothing at the start. */
    announce(keys, f) {
      const said = make(side, "div", { class: "said", "aria-live": "polite" });
      let timer = 0;
      keys.forEach((key) => model.on(`change:${key}`, () => {
        clearTimeout(timer);
        timer = setTimeout(() => { said.textContent = f(); }, 700);
      }));
    },
    number: numbersIn(table),
  };
  return ui;
}

/** Shows named numbers in the rows of a table; `data-value` has all their digits. */
export function numbersIn(table) {
  const values = {};
  return (key, name, value, digits = 3, unit = "") => {
    if (!values[key]) {
      const row = make(table, "tr");
      make(row, "th", { scope: "row" }, name);
      values[key] = make(row, "td", { "data-name": key });
    }
    values[key].dataset.value = value;
    const shown = Number.isFinite(value) ? value.toFixed(digits) + unit : Number.isNaN(value) ? "undefined" : "∞";
    values[key].textContent = typeof value === "string" ? value : shown;
  };
}

// What a key adds to a point, in steps; where this leads out of the square, the edge stops it.
const WAYS = {
  ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1],
  PageUp: [0, 10], PageDown: [0, -10], Home: [-100, 0], End: [100, 0],
};

/** An explorer of the plane: the square |x_k| ≤ view. */
export function frame(el, model, label) {
  const view = model.get("view");
  let svg, ground, handles; // the ground is drawn anew at each change
  const ui = panel(el, model, (root) => {
    svg = make(root, "svg", { viewBox: `0 0 ${SIZE} ${SIZE}`, role: "group", "aria-label": label });
    ground = make(svg, "g");
    handles = make(svg, "g");
  }, () => ground.replaceChildren());
  const px = ([a, b]) => [(SIZE * (a + view)) / (2 * view), (SIZE * (view - b)) / (2 * view)];
  const points = (polygon) => polygon.map((p) => px(p).join()).join(" ");
  const cut = (value) => Math.min(0.98 * view, Math.max(-0.98 * view, value));

  return Object.assign(ui, {
    view,
    polygon: (corners, k) =>
      make(ground, "polygon", { points: points(corners), fill: REGIONS[k], stroke: REGIONS[k] }),
    outline: (corners, color = "#777777", width = 0.8) =>
      make(ground, "polygon", { points: points(corners), fill: "none", stroke: color, "stroke-width": width }),
    line(a, b, color = INK, width = 2) {
      const [[x1, y1], [x2, y2]] = [px(a), px(b)];
      make(ground, "line", { x1, y1, x2, y2, stroke: color, "stroke-width": width });
    },
    /** Its tip is at b, or as many pixels before it as a handle there would hide. */
    arrow(a, b, color, before = 0) {
      const [from, end] = [px(a), px(b)];
      const way = minus(end, from), length = norm(way);
      if (length < before + 1) return;
      const unit = way.map((v) => v / length), side = [-unit[1], unit[0]];
      const to = step(end, -before, unit);
      const neck = step(to, -12, unit);
      const [[x1, y1], [x2, y2]] = [from, length > before + 12 ? neck : to];
      make(ground, "line", { x1, y1, x2, y2, stroke: color, "stroke-width": 3 });
      make(ground, "polygon", { points: [to, step(neck, 6, side), step(neck, -6, side)].join(" "), fill: color });
    },
    circle(center, radius, color = INK, dash = "") {
      if (!Number.isFinite(radius)) return;
      const [cx, cy] = px(center), r = (radius * SIZE) / (2 * view);
      make(ground, "circle", { cx, cy, r, fill: "none", stroke: color, "stroke-width": 2, "stroke-dasharray": dash });
    },
    dot(at, color = INK) {
      const [cx, cy] = px(at);
      make(ground, "circle", { cx, cy, r: 5, fill: color });
    },
    /** A point of the state that pointer, touch and keys move: the arrows by a step, Page up and Page
     *  down by ten, Home and End to the left and the right edge. */
    handle(key, name, color, { place = (p) => p, below = false } = {}) {
      const group = make(handles, "g", {
        tabindex: 0, role: "slider", "aria-label": `point ${name}: drag, or move with the arrow keys`,
        "aria-valuemin": -view, "aria-valuemax": view, "data-handle": key, ...OWN_KEYS,
      });
      make(group, "circle", { r: 24, fill: "transparent" }); // large enough for a finger
      make(group, "circle", { r: 9, fill: color, stroke: "white", "stroke-width": 2, class: "ring" });
      const text = make(group, "text", { x: 12, y: below ? 24 : -10 }, name);
      const move = (p) => ui.tell(key, place(p.map(cut)));
      const pointer = (event) => {
        const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
        move([(2 * view * at.x) / SIZE - view, view - (2 * view * at.y) / SIZE]);
      };
      group.addEventListener("pointerdown", (event) => {
        group.setPointerCapture(event.pointerId);
        group.focus({ focusVisible: false, preventScroll: true });
        event.preventDefault();
      });
      // a finger moves the point, not the page; `touch-action` does not reach into a drawing
      group.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });
      group.addEventListener("pointermove", (event) => group.hasPointerCapture(event.pointerId) && pointer(event));
      group.addEventListener("keydown", (event) => {
        const way = WAYS[event.key];
        if (!way) return;
        event.preventDefault(); // the page would scroll
        move(step(model.get(key), (event.shiftKey ? 5 : 1) * 0.02 * view, way));
      });
      ui.draw([key], () => {
        const p = model.get(key);
        const [left, top] = px(p);
        group.setAttribute("transform", `translate(${left},${top})`);
        // the name stands where the square does not cut it
        const right = left > SIZE - 24 - 9 * name.length;
        text.setAttribute("x", right ? -12 : 12);
        text.setAttribute("text-anchor", right ? "end" : "start");
        text.setAttribute("y", top < 30 || (below && top < SIZE - 30) ? 24 : -10);
        group.setAttribute("aria-valuenow", p[0].toFixed(2));
        group.setAttribute("aria-valuetext", `(${p[0].toFixed(2)}, ${p[1].toFixed(2)})`);
      });
    },
  });
}
