// Lesson 4: what robustness notices and what alignment notices.

/** Weights, biases, ρ and α of the classifier that the state describes; α in coordinates x − c. */
export function affine({ x, z, b, three, third, shift, v, c }) {
  const half = (sign) => z.map((value) => (sign * value) / 2);
  const rows = three ? [half(-1), half(1), third.slice(0, 2)] : [half(-1), half(1)];
  const weight = rows.map((w) => step(w, shift, v));
  const bias = three ? [-b / 2, b / 2, third[2]] : [-b / 2, b / 2];
  const nearest = linearized(logits(weight, bias, x), weight);
  const alpha = alignment(minus(x, c), weight[nearest.winner]);
  return { weight, bias, rho: nearest.value, alpha, winner: nearest.winner, foot: footOf(x, nearest) };
}

const WHY = {
  x: "You moved the point: both distances belong to a point.",
  b: "A bias moves the boundary. The gradient of an affine score is the same with any bias, so α cannot notice, unless the decision changes.",
  three: "A third class brings new boundaries. As long as the old class wins, α looks at its weights alone.",
  shift: "The same function was added to every score: each difference of scores is as before, and so is each decision. The gradient of one score is not.",
  c: "Distances have no origin. The inner product of α does: it takes x as an arrow from there.",
};
const KEYS = ["x", "b", "three", "shift", "c"];

function render({ model, el }) {
  const ui = frame(el, model, "Plane with the point x, the origin and the decision boundary");
  const state = () => Object.fromEntries([...KEYS, "z", "third", "v"].map((key) => [key, model.get(key)]));
  ui.draw(KEYS, () => {
    const { weight, bias, rho, alpha, winner, foot } = affine(state());
    const [x, c] = [model.get("x"), model.get("c")];
    weight.forEach((_, k) => ui.polygon(cell(weight, bias, k, ui.view), k));
    weight.forEach((_, k) => ui.outline(cell(weight, bias, k, ui.view), INK, 1.5));
    ui.circle(x, rho, INK, "6 5");
    ui.line(x, foot, INK, 2);
    ui.arrow(c, x, BLUE, 10);
    const g = weight[winner], size = norm(g);
    if (size > 0) ui.arrow(x, step(x, (0.35 * ui.view) / size, g), RUST);
    ui.number("rho", "robustness ρ", rho);
    ui.number("alpha", "alignment α", alpha);
    ui.number("winner", "decision F(x)", `class ${winner}`);
    ui.number("g", "saliency map g", `(${g.map((value) => value.toFixed(2)).join(", ")})`);
  });
  ui.handle("c", "origin", GREEN, { below: true });
  ui.handle("x", "x", BLUE);
  ui.slider("b", "bias b", -3, 3);
  ui.slider("shift", "size of the function added to every score", -2, 2);
  ui.tick("three", "third class");
  ui.again(KEYS);
  const sentence = make(ui.side, "p");
  let before = affine(state()), last = before; // at the last change; and at the last rest
  const verb = (name, now, then) => {
    const same = now[name] === then[name] || Math.abs(now[name] - then[name]) < 1e-9;
    return same ? "stays" : now[name] > then[name] ? "grows" : "shrinks";
  };
  KEYS.forEach((key) =>
    model.on(`change:${key}`, () => {
      const now = affine(state());
      sentence.textContent = `ρ ${verb("rho", now, before)}, α ${verb("alpha", now, before)}. ${WHY[key]}`;
      before = now;
    }),
  );
  ui.announce(KEYS, () => {
    const now = affine(state());
    const words = [["ρ", "rho"], ["α", "alpha"]].map(([sign, name]) => `${sign} ${verb(name, now, last)}: ${now[name].toFixed(2)}`);
    last = now;
    return `${words.join(", ")}; class ${now.winner}.`;
  });
}

const shared = (model) => ({
  x: list(2, model.get("view")), c: list(2, model.get("view")), z: list(2), v: list(2),
  b: between(-3, 3), shift: between(-2, 2), three: TICK, third: list(3),
});

export default { render, shared };
