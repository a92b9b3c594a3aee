// The robustness bench: draw an image; networks, computed in the page, answer with their maps and numbers.


const DEPTH = 15; // what is drawn has 16 grey values: a hexadecimal digit a pixel in the address
/** The nearest grey value, in the single precision of the images. */
const level = (value) => Math.fround(Math.round(DEPTH * Math.min(1, Math.max(0, value))) / DEPTH);

/** An image in the address: image3, or its pixels, where z9z stands for nine zeros. */
const image = (images) => ({
  text(x) {
    const k = images.findIndex((one) => one.every((value, at) => value === x[at]));
    if (k >= 0) return `image${k + 1}`;
    const digits = x.map((value) => Math.round(DEPTH * value).toString(16)).join("");
    return digits.replace(/0{4,}/g, (zeros) => `z${zeros.length}z`);
  },
  value(text) {
    const known = images[Number(text.match(/^image(\d+)$/)?.[1]) - 1];
    if (known) return known;
    const digits = text.replace(/z(\d{1,4})z/g, (_, n) => "0".repeat(n));
    return /^[0-9a-f]+$/.test(digits) && digits.length === images[0].length
      ? [...digits].map((digit) => level(parseInt(digit, 16) / DEPTH)) : undefined;
  },
});

/** A field to draw on: mouse, finger or keys. Gives the place for further controls beside it. */
function drawing(parent, model, ui) {
  const shape = model.get("shape"), [, height, width] = shape, area = height * width;
  const canvas = make(parent, "canvas", {
    tabindex: 0, role: "application", "aria-roledescription": "drawing", ...OWN_KEYS,
    "aria-label": `Image, ${height} × ${width} pixels. Arrow keys move the pen, space lowers or lifts it, delete erases.`,
  });
  const pen = { row: height >> 1, column: width >> 1, down: false, keys: false, last: null };
  const ink = () => (erase.checked ? -1 : 1);

  /** Ink around some places, less with the distance. */
  function touch(places, sign) {
    const radius = width / 20, x = model.get("x").map(level);
    for (let k = 0; k < area; k++) {
      const here = [Math.floor(k / width), k % width];
      const distance = Math.min(...places.map((place) => norm(minus(here, place))));
      const amount = level(radius + 0.5 - distance);
      for (let at = k; amount > 0 && at < x.length; at += area)
        x[at] = sign > 0 ? Math.max(x[at], amount) : Math.min(x[at], level(1 - amount));
    }
    ui.tell("x", x);
  }
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientY - box.top) / box.height) * height - 0.5, ((event.clientX - box.left) / box.width) * width - 0.5];
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pen.last = at(event);
    touch([pen.last], ink());
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!canvas.hasPointerCapture(event.pointerId)) return;
    const [from, to] = [pen.last, at(event)], steps = Math.ceil(Math.hypot(to[0] - from[0], to[1] - from[1]));
    touch(Array.from({ length: steps + 1 }, (_, k) => step(from, k / (steps || 1), minus(to, from))), ink());
    pen.last = to;
  });
  canvas.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (way) {
      pen.row = Math.min(height - 1, Math.max(0, pen.row + way[0]));
      pen.column = Math.min(width - 1, Math.max(0, pen.column + way[1]));
    } else if (event.key === " ") pen.down = !pen.down;
    else if (event.key !== "Delete" && event.key !== "Backspace") return;
    event.preventDefault();
    pen.keys = true;
    ui.say(`Pen ${pen.down ? "down" : "up"}, row ${pen.row + 1}, column ${pen.column + 1}.`);
    if (event.key === "Delete" || event.key === "Backspace") touch([[pen.row, pen.column]], -1);
    else if (pen.down) touch([[pen.row, pen.column]], ink());
    else show();
  });
  canvas.addEventListener("blur", () => { pen.keys = pen.down = false; show(); });

  /** The image, and the pen while keys move it. */
  function show() {
    paintImage(canvas, shape, model.get("x"));
    if (!pen.keys) return;
    const context = canvas.getContext("2d");
    context.fillStyle = pen.down ? "#D55E00" : "#56B4E9";
    context.fillRect(pen.column, pen.row, 1, 1);
  }

  const controls = make(parent, "div");
  const select = make(make(controls, "label", {}, "image"), "select", OWN_KEYS);
  const images = model.get("images");
  images.forEach((_, k) => make(select, "option", { value: k }, `image ${k + 1} of ${images.length}`));
  make(select, "option", { value: -1 }, "drawn by you");
  select.addEventListener("input", () => { if (select.value >= 0) ui.tell("x", images[select.value]); });
  const tick = make(controls, "label", { class: "tick" });
  const erase = make(tick, "input", { type: "checkbox", ...OWN_KEYS });
  make(tick, "span", {}, "erase instead of draw");
  ui.button("Empty the image", () => ui.tell("x", model.get("x").map(() => 0)), make(controls, "div", { class: "buttons" }));
  make(controls, "p", {}, "Draw with mouse or finger; or by keys: the arrows move the pen, space lowers and lifts it, delete erases.");
  const showAll = () => {
    show();
    select.value = images.findIndex((one) => one.every((value, k) => value === model.get("x")[k]));
  };
  model.on("change:x", showAll);
  showAll();
  return controls;
}

/** Which class the map belongs to: that of the decision, or a chosen one. */
function classes(parent, model, ui) {
  const select = make(make(parent, "label", {}, "map of"), "select", OWN_KEYS);
  select.addEventListener("input", () => ui.tell("target", Number(select.value)));
  /** Offers as many classes as a network has scores. */
  ui.offer = (n) => {
    if (select.options.length !== n + 1) {
      select.replaceChildren();
      make(select, "option", { value: -1 }, "the decision");
      for (let k = 0; k < n; k++) make(select, "option", { value: k }, `class ${k}`);
    }
    select.value = model.get("target") < n ? model.get("target") : -1;
  };
}

/** Bars of the scores: the largest dark, that of the map's class rust if it is another one. */
function drawScores(svg, scores, target) {
  svg.replaceChildren();
  const most = Math.max(...scores.map(Math.abs)) || 1, winner = scores.indexOf(Math.max(...scores)), wide = 300 / scores.length;
  scores.forEach((score, k) => {
    const size = (34 * Math.abs(score)) / most;
    make(svg, "rect", { x: k * wide + 2, y: score > 0 ? 38 - size : 38, width: wide - 4, height: size, fill: k === winner ? BLUE : k === target ? RUST : "#9aa4ae" });
    make(svg, "text", { x: (k + 0.5) * wide, y: 90, "text-anchor": "middle" }, String(k));
  });
  svg.setAttribute("aria-label", `Scores of the classes: ${[...scores].map((score, k) => `${k}: ${score.toFixed(1)}`).join(", ")}`);
}

const FACTORS = Array.from({ length: 21 }, (_, k) => k / 10);

/** c ↦ Ψ(cx) for the class of x, with its tangent at c = 1, which begins at β. */
function drawScale(svg, values, { homogeneous, beta }, c, now) {
  svg.replaceChildren();
  const tangent = (factor) => beta + factor * homogeneous;
  const all = [...values, tangent(0), tangent(2), 0], [low, high] = [Math.min(...all), Math.max(...all)];
  const px = (factor, value) => [30 + 130 * factor, 8 + (124 * (high - value)) / (high - low || 1)];
  const line = (points, attributes) => make(svg, "polyline", { points: points.join(" "), fill: "none", ...attributes });
  line([px(0, 0), px(2, 0)], { stroke: "#9aa4ae" });
  line([px(0, tangent(0)), px(2, tangent(2))], { stroke: RUST, "stroke-width": 2, "stroke-dasharray": "6 4" });
  line(values.map((value, k) => px(FACTORS[k], value)), { stroke: BLUE, "stroke-width": 3 });
  const dot = (at, fill) => make(svg, "circle", { cx: at[0], cy: at[1], r: 5, fill });
  dot(px(0, beta), RUST);
  if (Number.isFinite(now)) dot(px(c, now), BLUE);
  make(svg, "text", { x: 2, y: Math.min(128, Math.max(14, px(0, beta)[1])) }, "β");
  ["0", "1", "2"].forEach((text, k) => make(svg, "text", { x: px(k, 0)[0], y: 150, "text-anchor": "middle" }, text));
  svg.setAttribute("aria-label", `Score of the class against the factor c of the image, from ${values[0].toFixed(2)} at 0 to ` +
    `${values.at(-1).toFixed(2)} at 2; the tangent at 1 meets the axis at β = ${beta.toFixed(2)}`);
}

/** The plane through x, the black image and g†: distances from the linearized boundary run from left to right. */
function drawBlack(svg, { tilde, black, binarized }) {
  svg.replaceChildren();
  if (!Number.isFinite(tilde)) return svg.setAttribute("aria-label", "There is no linearized boundary");
  const reach = 1.15 * Math.max(1, tilde, Math.abs(black)), px = (t) => 150 + (130 * t) / reach;
  const line = (x1, y1, x2, y2, attributes) => make(svg, "line", { x1, y1, x2, y2, stroke: INK, "stroke-width": 2, ...attributes });
  const text = (x, y, words, anchor = "middle") => make(svg, "text", { x, y, "text-anchor": anchor }, words);
  make(svg, "rect", { x: 150, y: 18, width: 150, height: 132, fill: REGIONS[0] });
  make(svg, "rect", { x: 0, y: 18, width: 150, height: 132, fill: REGIONS[1] });
  text(150, 13, "boundary");
  text(296, 146, "the winner's side", "end");
  text(4, 146, "the rival's", "start");
  line(150, 18, 150, 150);
  line(px(black), 18, px(black), 150, { "stroke-dasharray": "2 4" });
  line(px(tilde), 50, 150, 50, { stroke: RUST, "stroke-width": 4 });
  line(px(tilde), 78, px(black), 78, { stroke: BLUE, "stroke-width": 4 });
  line(px(black), 112, 150, 112, { stroke: GREEN, "stroke-width": 4 });
  make(svg, "circle", { cx: px(tilde), cy: 50, r: 6, fill: INK });
  make(svg, "rect", { x: px(black) - 6, y: 106, width: 12, height: 12, fill: INK });
  text(px(tilde), 40, "x");
  text(px(black), 132, "black");
  svg.setAttribute("aria-label", `Image at the distance ${tilde.toFixed(2)} before the linearized boundary; black image ` +
    `${Math.abs(black).toFixed(2)} ${black > 0 ? "before it, on the winner's side" : "behind it, on the rival's side"}; α† = ${binarized.toFixed(2)} between them`);
}

// What a widget may show of its networks: the rows of their tables, figures, and a sentence for the numbers m.
const fixed = (value) => value.toFixed(2);
const PARTS = {
  all: {
    rows: ["winner", "rival", "angle", "alpha", "tilde", "bound", "direction", "bias", "trivial", "degree", "beta"],
    walk: true, scale: true, slider: ["c", "factor c of the scaled image", 0, 2],
    say: (m) => `class ${m.winner}, α ${fixed(m.alpha)}, ρ̃ ${fixed(m.tilde)}, bound ${fixed(m.bound)}, score ${fixed(m.score)}.`,
  },
  class: {
    rows: ["winner", "score", "angle", "alpha"], classes: true,
    say: (m) => `map of class ${m.target}, score ${fixed(m.score)}, angle ${m.angle.toFixed(1)}°, α ${fixed(m.alpha)}.`,
  },
  scale: {
    rows: ["winner", "score", "homogeneous", "beta", "degree"],
    scale: true, slider: ["c", "factor c of the scaled image", 0, 2],
    say: (m) => `β = ${fixed(m.beta)}, the image's part ${fixed(m.homogeneous)}, their sum is the score ${fixed(m.score)}.`,
  },
  black: {
    rows: ["winner", "rival", "tilde", "black", "binarized", "alpha"],
    black: true,
    say: (m) => `black lies on the side of class ${m.black > 0 ? m.winner : m.rival}, t(0) = ${fixed(m.black)}; ρ̃ = ${fixed(m.tilde)}, α† = ${fixed(m.binarized)}.`,
  },
  shift: {
    rows: ["winner", "alpha", "centred", "binarized", "tilde"],
    slider: ["shift", "κ: add κ/2 · ‖x‖² to every score", -1, 1],
    say: (m) => `class ${m.winner}, α ${fixed(m.alpha)}, centred α ${fixed(m.centred)}, α† ${fixed(m.binarized)}, ρ̃ ${fixed(m.tilde)}.`,
  },
};
const ROWS = {
  winner: "decision F(x)", rival: "nearest rival", score: "score of the map's class", angle: "angle of x and g",
  alpha: "alignment α", centred: "centred alignment", binarized: "α†, of winner − rival", tilde: "linearized robustness ρ̃",
  black: "t(0), black from the boundary", bound: "bound α + direction + bias", direction: "… direction ‖x‖·‖ḡ† − ḡ‖",
  bias: "… bias |β†|/‖g†‖", trivial: "trivial bound ‖x‖ + bias", degree: "degree of homogeneity",
  homogeneous: "⟨x, g⟩, homogeneous part", beta: "β, non-homogeneous part",
};

/** One network: its answers for the image of the state. `key` is the part of the state with its name. */
function column(parent, model, ui, key, title, ask) {
  const shape = model.get("shape"), names = model.get("networks").map((one) => one.name), part = PARTS[model.get("part")];
  const box = make(parent, "section", { class: "net", "aria-label": title, "data-network": key });
  const select = make(make(box, "label", {}, title), "select", OWN_KEYS);
  (key === "first" ? names : ["", ...names]).forEach((value) => make(select, "option", { value }, value || "none"));
  select.addEventListener("input", () => ui.tell(key, select.value));
  const body = make(box, "div"), pictures = make(body, "div", { class: "pictures" });
  const map = figure(pictures, "saliency map g"), walked = part.walk ? ["adversary y", "y − x"].map((caption) => figure(pictures, caption)) : [];
  const bars = make(body, "svg", { viewBox: "0 0 300 96", role: "img", "aria-label": "scores of the classes" });
  const scale = part.scale && figure(body, "score of c·x against c; dashed: its tangent at c = 1", "svg", { viewBox: "0 0 300 156" });
  const black = part.black && figure(body, "distances from the linearized boundary; rust ρ̃, blue α†", "svg", { viewBox: "0 0 300 150" });
  const number = numbersIn(make(make(body, "table"), "tbody"));
  const button = part.walk && ui.button("Walk to the boundary", walk, make(body, "div", { class: "buttons" }));
  const target = () => (part.classes ? model.get("target") : -1), shift = () => (part.slider?.[0] === "shift" ? model.get("shift") : 0);
  const self = { text: "", scaled: "" };
  let asked = 0, answered = 0, known = null, found = null, values = null;

  /** Answer for the newest state; states that passed while the network was busy are left out. */
  async function update() {
    asked++;
    box.dataset.state = "busy";
    await ui.seen;
    if (answered) return;
    while (answered !== asked) {
      answered = asked;
      await answer(() => answered !== asked);
    }
    answered = 0;
    box.dataset.state = "rest";
    ui.rest();
  }

  /** Scores and map first, then what needs the gradients of all classes, then the scaled images. */
  async function answer(stale) {
    const network = model.get(key), x = model.get("x"), image = Float64Array.from(x);
    select.value = network;
    body.hidden = !network;
    known = found = values = null;
    self.text = self.scaled = "";
    if (!network) return;
    try {
      const quick = raised(x, await ask(network, { job: "map", image }), shift());
      if (target() < 0) {
        drawScores(bars, quick.scores);
        paintSigned(map, shape, quick.gradients[0]);
      }
      walked.forEach((one) => { one.parentNode.hidden = true; });
      if (stale()) return;
      known = { x, ...(await ask(network, { job: "gradients", image })) };
      showMeasures();
      if (stale() || !scale) return;
      const scaled = await ask(network, { job: "scores", images: FACTORS.map((c) => image.map((value) => c * value)) });
      values = scaled.map((one) => one[found.target]);
      await showScale();
    } catch (error) {
      self.text = `${network}: ${error.message}.`;
    }
  }

  /** What follows from the answers and from the rest of the state: map, bars and numbers. */
  function showMeasures() {
    if (!known) return;
    const { scores, gradients } = raised(known.x, known, shift());
    ui.offer?.(scores.length);
    found = measures(known.x, scores, gradients, target());
    drawScores(bars, scores, found.target);
    paintSigned(map, shape, found.g);
    map.setAttribute("aria-label", `Saliency map of class ${found.target}: brown below zero, purple above`);
    for (const row of part.rows) {
      const value = found[row], named = row === "winner" || row === "rival";
      number(row, ROWS[row], named ? `class ${value}` : value, ...(row === "angle" ? [1, "°"] : []));
    }
    if (button) number("distance", "‖y − x‖ of the adversary", "not walked");
    if (black) drawBlack(black, found);
    self.text = `${model.get(key)}: ${part.say(found)}`;
    ui.rest();
  }

  async function showScale() {
    const m = found, c = model.get("c");
    if (!values) return;
    const [scores] = await ask(model.get(key), { job: "scores", images: [Float64Array.from(model.get("x"), (value) => c * value)] });
    if (m !== found || c !== model.get("c")) return;
    drawScale(scale, values, m, c, scores[m.target]);
    number("scaled", "score of c·x", scores[m.target]);
    self.scaled = c === 1 ? "" : ` At c = ${fixed(c)} it is ${fixed(scores[m.target])}.`;
    ui.rest();
  }

  /** DeepFool: steps a little beyond the nearest linearized boundary, until the decision changes; then back by halving. */
  async function walk() {
    const m = found, network = model.get(key), x = model.get("x"), started = asked;
    const left = () => asked !== started; // the reader moved on
    if (!m?.normal) return;
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const decision = async (y) => {
      const [scores] = await ask(network, { job: "scores", images: [Float64Array.from(y)] });
      return scores.indexOf(Math.max(...scores));
    };
    const show = (y, steps) => {
      walked.forEach((one) => { one.parentNode.hidden = false; });
      paintImage(walked[0], shape, y);
      paintSigned(walked[1], shape, minus(y, x));
      number("distance", "‖y − x‖ of the adversary", norm(minus(y, x)));
      self.text = `${steps} step${steps === 1 ? "" : "s"}: ‖y − x‖ = ${norm(minus(y, x)).toFixed(3)}, ρ̃ = ${m.tilde.toFixed(3)}.`;
    };
    button.disabled = true;
    try {
      let y = x, steps = 0;
      while (steps < 50 && !left()) {
        const { scores, gradients } = await ask(network, { job: "gradients", image: Float64Array.from(y) });
        const here = measures(y, scores, gradients);
        if (here.winner !== m.winner || !here.normal) break;
        y = step(y, -(1.02 * here.tilde + 1e-3 * m.tilde) / norm(here.normal), here.normal);
        steps++;
        if (still || left()) continue;
        show(y, steps);
        await new Promise((resolve) => setTimeout(resolve, 400));
      }
      let [inside, outside] = [0, 1]; // shares of the way from x to y: with the old decision, and with another
      for (let k = 0; k < 20 && !left(); k++) {
        const middle = (inside + outside) / 2;
        if ((await decision(step(x, middle, minus(y, x)))) === m.winner) inside = middle;
        else outside = middle;
      }
      const end = step(x, outside, minus(y, x)), became = await decision(end);
      if (left()) return;
      show(end, steps);
      self.text += became === m.winner ? " No other decision was found." : ` The decision becomes class ${became}: ρ is at most this distance.`;
    } catch (error) {
      self.text = `${network}: ${error.message}.`;
    } finally {
      button.disabled = false;
      ui.rest();
    }
  }

  [key, "x"].forEach((one) => model.on(`change:${one}`, update));
  ["target", "shift"].forEach((one) => model.on(`change:${one}`, showMeasures));
  model.on("change:c", showScale);
  update();
  return self;
}

function render({ model, el }) {
  const ui = panel(el, model, () => {});
  make(ui.root, "style").textContent = PICTURES;
  const ask = asking(model, ENGINE);
  const sentence = ui.sentence();
  let columns = [], timer = 0;
  ui.seen = seen(el);
  /** What is said last stands: numbers that were still to come from before do not replace it. */
  ui.say = (text) => { clearTimeout(timer); sentence.textContent = text; };
  /** Say the numbers once nothing moves any more. */
  ui.rest = () => {
    clearTimeout(timer);
    timer = setTimeout(() => ui.say(columns.map((one) => one.text + one.scaled).filter(Boolean).join(" ")), 700);
  };
  const part = PARTS[model.get("part")], controls = drawing(make(ui.root, "div", { class: "draw" }), model, ui);
  if (part.classes) classes(controls, model, ui);
  if (part.slider) ui.slider(...part.slider, controls);
  columns = [["first", "network"], ["second", "beside it"]].map(([key, title]) => column(ui.root, model, ui, key, title, ask));
  ui.root.append(ui.side);
}

const shared = (model) => {
  const names = model.get("networks").map((one) => one.name);
  const target = { text: String, value: (text) => (/^(-1|\d{1,4})$/.test(text) ? Number(text) : undefined) };
  const choices = { x: image(model.get("images")), first: oneOf(names), second: oneOf(["", ...names]) };
  return { ...choices, c: between(0, 2), target, shift: between(-1, 1) };
};

export default { render, shared };
