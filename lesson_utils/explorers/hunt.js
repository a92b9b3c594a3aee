// Lessons 4 and 5: a claim about classifiers of the plane, and a search for one that breaks it.

// ---- claims: "rho <= alpha", "if margin <= margin2 then rho <= rho2" ------------------------

const COMPARE = {
  "<=": (a, b) => a <= b + 1e-9, ">=": (a, b) => a >= b - 1e-9,
  "<": (a, b) => a < b - 1e-9, ">": (a, b) => a > b + 1e-9, "=": (a, b) => Math.abs(a - b) <= 1e-9,
};
const NAMES = ["rho", "tilde", "alpha", "margin", "norm", "bound", "degree"];

/** Reads a claim; the function that it returns says whether the claim holds for some values by name.
 *  Throws an error that says what was not understood. */
export function readClaim(text) {
  const tokens = text.match(/[a-z]+\d?|\d+(\.\d+)?|[<>]=?|=|[-+*/()]|\S/gi) ?? [];
  let at = 0;
  const next = (...wanted) => (wanted.includes(tokens[at]) ? tokens[at++] : null);
  const must = (token) => { if (!next(token)) throw new Error(`"${token}" is missing before "${tokens[at] ?? "the end"}"`); };
  const chain = (part, operations) => () => {
    let left = part();
    for (let sign; (sign = next(...Object.keys(operations))); ) {
      const [a, b, f] = [left, part(), operations[sign]];
      left = (values) => f(a(values), b(values));
    }
    return left;
  };
  function atom() {
    if (next("(")) { const inside = sum(); must(")"); return inside; }
    if (next("-")) { const inside = atom(); return (values) => -inside(values); }
    const token = tokens[at++] ?? "the end";
    if (/^\d/.test(token)) return () => Number(token);
    if (NAMES.includes(token.replace(/[02]$/, ""))) return (values) => values[token];
    throw new Error(`"${token}" is no number and none of ${NAMES.join(", ")}, alone or followed by 0 or 2`);
  }
  const product = chain(atom, { "*": (a, b) => a * b, "/": (a, b) => a / b });
  const sum = chain(product, { "+": (a, b) => a + b, "-": (a, b) => a - b });
  function comparison() {
    const left = sum(), sign = next(...Object.keys(COMPARE));
    if (!sign) throw new Error(`one of ${Object.keys(COMPARE).join(" ")} is missing before "${tokens[at] ?? "the end"}"`);
    const right = sum();
    return (values) => COMPARE[sign](left(values), right(values));
  }
  let condition = () => true;
  if (next("if")) { condition = comparison(); must("then"); }
  const conclusion = comparison();
  if (at < tokens.length) throw new Error(`"${tokens[at]}" comes too late`);
  return (values) => !condition(values) || conclusion(values);
}

// ---- classifiers of the plane: affine, or with one hidden layer of ReLU ------------------------

const WINDOW = 12; // half-width of the square in which boundaries are looked for

/** Weights and biases of the affine piece of a network around x. */
export function pieceAt({ hidden, weight, bias }, x) {
  if (!hidden) return { weight, bias };
  const open = hidden.map(([w, b]) => dot(w, x) + b > 0);
  const through = (row, part) => hidden.reduce((total, unit, k) => total + (open[k] ? row[k] * part(unit) : 0), 0);
  return {
    weight: weight.map((row) => [0, 1].map((c) => through(row, ([w]) => w[c]))),
    bias: bias.map((b, i) => b + through(weight[i], (unit) => unit[1])),
  };
}

/** The convex pieces of the square on which a network is affine, each cut into the cells of its classes. */
export function cellsOf(net, view) {
  let pieces = [[[-view, -view], [view, -view], [view, view], [-view, view]]];
  for (const [w, b] of net.hidden ?? [])
    pieces = pieces.flatMap((one) => [clip(one, w, b), clip(one, w.map((v) => -v), -b)]).filter((one) => one.length > 2);
  return pieces.flatMap((piece) => {
    const middle = [0, 1].map((c) => piece.reduce((total, corner) => total + corner[c], 0) / piece.length);
    const { weight, bias } = pieceAt(net, middle);
    return weight.map((w, i) => [i, weight.reduce((left, v, j) => (j === i ? left : clip(left, minus(w, v), bias[i] - bias[j])), piece)]);
  }).filter(([, polygon]) => polygon.length > 2);
}

const area = (polygon) =>
  Math.abs(edges(polygon).reduce((total, [a, b]) => total + a[0] * b[1] - a[1] * b[0], 0)) / 2;

/** Exact ρ: the distance to the nearest cell of another class. For an affine classifier ρ̃ is exact.
 *  NaN where cells overlap: two classes tie on an area, and all would hang on the rule for ties. */
function exactRho(net, x, lin) {
  if (!net.hidden) return lin.value;
  const cells = cellsOf(net, WINDOW);
  if (cells.reduce((total, [, polygon]) => total + area(polygon), 0) > (2 * WINDOW) ** 2 + 1e-6) return NaN;
  const others = cells.filter(([k]) => k !== lin.winner).flatMap(([, polygon]) => edges(polygon));
  return Math.min(Infinity, ...others.map(([a, b]) => norm(minus(x, nearestOnSegment(x, a, b)))));
}

/** The quantities of the lessons at x. */
function quantities(net, x) {
  const { weight, bias } = pieceAt(net, x), scores = logits(weight, bias, x), lin = linearized(scores, weight);
  const g = weight[lin.winner], homogeneous = dot(x, g), beta = scores[lin.winner] - homogeneous;
  if (!lin.normal || norm(g) === 0) return null; // nothing to compare, or α undefined
  const margin = scores[lin.winner] - scores[lin.rival], alpha = alignment(x, g), size = norm(lin.normal);
  const apart = norm(minus(lin.normal.map((v) => v / size), g.map((v) => v / norm(g))));
  const rho = exactRho(net, x, lin);
  return rho < WINDOW / 2 && {
    rho, alpha, margin, tilde: lin.value, norm: norm(x), winner: lin.winner,
    bound: alpha + norm(x) * apart + Math.abs(margin - dot(x, lin.normal)) / size,
    degree: Math.abs(homogeneous) / (Math.abs(homogeneous) + Math.abs(beta) || 1),
  };
}

/** All values that a claim may name: at x; with 2 at a second point; with 0 at x without any bias. */
export function valuesOf({ net, x, y }, names) {
  const bare = { hidden: net.hidden?.map(([w]) => [w, 0]), weight: net.weight, bias: net.bias.map(() => 0) };
  const asked = { "": [net, x], 2: [net, y], 0: [bare, x] }, values = {};
  for (const [sign, [where, point]] of Object.entries(asked)) {
    if (sign && !names.some((name) => name.endsWith(sign))) continue;
    const found = quantities(where, point);
    if (!found) return null;
    for (const [name, value] of Object.entries(found)) values[name + sign] = value;
  }
  return values;
}

// ---- the hunt ---------------------------------------------------------------------------------

/** A classifier with two or three classes, with biases or without, and two points. */
function candidate(kind, random) {
  const some = () => Math.round(60 * random() - 30) / 10, point = () => [some(), some()];
  const units = kind === "ReLU network" ? 1 + Math.floor(3 * random()) : 2, classes = 2 + Math.floor(2 * random());
  const row = () => Array.from({ length: units }, some), biased = random() < 0.7;
  return {
    net: {
      hidden: kind === "ReLU network" ? Array.from({ length: units }, () => [point(), biased ? some() : 0]) : undefined,
      weight: Array.from({ length: classes }, row), bias: Array.from({ length: classes }, () => (biased ? some() : 0)),
    },
    x: point(), y: point(),
  };
}

/** Simpler ones than this: a class or a unit less, a number 0, whole, or nearer to zero. */
function* simpler(one) {
  const { net } = one, without = (list, k) => list.filter((_, at) => at !== k);
  if (net.weight.length > 2)
    for (const k of net.weight.keys()) yield { ...one, net: { ...net, weight: without(net.weight, k), bias: without(net.bias, k) } };
  if (net.hidden?.length > 1)
    for (const k of net.hidden.keys())
      yield { ...one, net: { ...net, hidden: without(net.hidden, k), weight: net.weight.map((row) => without(row, k)) } };
  const text = JSON.stringify(one), numbers = [...text.matchAll(/-?\d+(\.\d+)?(?=[,\]])/g)];
  for (const found of numbers) {
    const value = Number(found[0]);
    for (const other of new Set([0, Math.sign(value), Math.trunc(value), Math.trunc(value) + Math.sign(value)]))
      if (other !== value && Math.abs(other) <= Math.abs(value) + 1 && (Number.isInteger(value) ? Math.abs(other) < Math.abs(value) : true))
        yield JSON.parse(text.slice(0, found.index) + other + text.slice(found.index + found[0].length));
  }
}

/** The same counterexample, made as simple as it goes. */
function shrunk(one, breaks) {
  for (;;) {
    const next = [...simpler(one)].find(breaks);
    if (!next) return one;
    one = next;
  }
}

const CLAIMS = [
  ["ρ ≤ α", "rho <= alpha"],
  ["a bias leaves ρ", "rho = rho0"],
  ["a bias leaves α", "alpha = alpha0"],
  ["larger margin, larger ρ", "if margin <= margin2 then rho <= rho2"],
  ["longer image, larger ρ", "if norm <= norm2 then rho <= rho2"],
  ["ρ̃ = ρ", "tilde = rho"],
  ["ρ̃ is at most the bound", "tilde <= bound"],
];
const KINDS = ["affine", "ReLU network"], TRIES = { affine: 20000, "ReLU network": 4000 };

const vector = (v) => `(${v.map((value) => Number(value.toFixed(2))).join(", ")})`;

function formula({ hidden, weight, bias }) {
  const of = hidden ? "h" : "x";
  const units = (hidden ?? []).map(([w, b], k) => `h${k + 1} = max(0, ⟨${vector(w)}, x⟩${b ? ` ${b < 0 ? "−" : "+"} ${Math.abs(b)}` : ""})`);
  const scores = weight.map((w, i) => `Ψ${i} = ⟨${vector(w)}, ${of}⟩${bias[i] ? ` ${bias[i] < 0 ? "−" : "+"} ${Math.abs(bias[i])}` : ""}`);
  return [...units, ...scores].join("; ");
}

function render({ model, el }) {
  const ui = frame(el, model, "Plane with the classifier that breaks the claim");
  make(ui.root, "style").textContent = `.explorer select, .explorer input[type=text] { grid-column: 1 / 3; font: inherit; width: 100%;
    box-sizing: border-box; color: ${INK}; background: white; border: 1px solid #59636e; border-radius: 4px; padding: 3px; }
.explorer select:focus-visible { outline: 3px solid ${INK}; outline-offset: 2px; }`;
  const chosen = make(make(ui.side, "label", {}, "claim"), "select", OWN_KEYS);
  CLAIMS.forEach(([words, claim]) => make(chosen, "option", { value: claim }, words));
  make(chosen, "option", { value: "" }, "written by you");
  const written = make(make(ui.side, "label", {}, "the claim in symbols"), "input", { type: "text", spellcheck: false, ...OWN_KEYS });
  const kind = make(make(ui.side, "label", {}, "classifiers"), "select", OWN_KEYS);
  KINDS.forEach((value) => make(kind, "option", { value }, value));
  chosen.addEventListener("input", () => (chosen.value ? ui.tell("claim", chosen.value) : written.focus()));
  written.addEventListener("change", () => ui.tell("claim", written.value));
  kind.addEventListener("input", () => ui.tell("kind", kind.value));
  ui.button("Hunt again", () => ui.tell("seed", model.get("seed") + 1));
  const sentence = ui.sentence();
  let found = null, round = 0;

  /** Tries candidates, some at a time so that the page answers meanwhile. */
  async function hunt() {
    const mine = ++round, claim = model.get("claim"), random = randomFrom(model.get("seed")), tries = TRIES[model.get("kind")];
    written.value = claim;
    chosen.value = CLAIMS.some((one) => one[1] === claim) ? claim : "";
    kind.value = model.get("kind");
    found = null;
    el.dataset.state = "busy";
    delete el.dataset.found;
    const finish = (text) => { sentence.textContent = text; el.dataset.state = "rest"; ui.redraw(); };
    let holds;
    try { holds = readClaim(claim); } catch (error) { return finish(`Not understood: ${error.message}.`); }
    const names = claim.match(/[a-z]+\d?/gi);
    const breaks = (one) => { const values = valuesOf(one, names); return values !== null && !holds(values); };
    for (let n = 1; n <= tries; n++) {
      if (n % 200 === 0) {
        await new Promise((resolve) => setTimeout(resolve));
        if (mine !== round) return;
      }
      const one = candidate(model.get("kind"), random);
      if (!breaks(one)) continue;
      const small = shrunk(one, breaks), values = valuesOf(small, names);
      found = { ...small, values };
      el.dataset.found = JSON.stringify(small);
      const shown = Object.keys(values).filter((name) => names.includes(name));
      return finish(`Broken at try ${n.toLocaleString("en")}; made as simple as it goes: ${formula(small.net)}; x = ${vector(small.x)}` +
        ("rho2" in values ? `; second point ${vector(small.y)}` : "") + `. There ${shown.map((name) => `${name} = ${values[name].toFixed(3)}`).join(", ")}.`);
    }
    finish(`${tries.toLocaleString("en")} tries, and none breaks it. That is no proof: it is where a proof is worth looking for.`);
  }
  ui.draw([], () => {
    if (!found) return;
    const { net, x, y, values } = found;
    cellsOf(net, ui.view).forEach(([k, polygon]) => { ui.polygon(polygon, k); if (net.hidden) ui.outline(polygon); });
    ui.circle(x, values.rho, INK, "6 5");
    ui.arrow([0, 0], x, BLUE);
    ui.dot(x, BLUE);
    if ("rho2" in values) { ui.circle(y, values.rho2, RUST); ui.dot(y, RUST); }
  });
  ["claim", "kind", "seed"].forEach((key) => model.on(`change:${key}`, hunt));
  hunt();
}

const shared = () => ({ claim: { text: String, value: (text) => text.slice(0, 200) || undefined }, kind: oneOf(KINDS), seed: WHOLE });

export default { render, shared };
