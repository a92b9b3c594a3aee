// Lesson 3: a linear binary classifier; robustness, alignment and ‖x‖·|cos δ| are one number.

/** The three forms of the theorem, each computed in its own way. */
export function toy(x, z) {
  const foot = step(x, -dot(x, z) / dot(z, z), z);
  const delta = Math.atan2(x[0] * z[1] - x[1] * z[0], dot(x, z));
  return {
    foot,
    rho: norm(minus(x, foot)),
    alpha: alignment(x, z),
    product: norm(x) * Math.abs(Math.cos(delta)),
    angle: (Math.abs(delta) * 180) / Math.PI,
  };
}

function render({ model, el }) {
  const ui = frame(el, model, "Plane with the point x, the vector z and the decision boundary");
  const origin = [0, 0];
  ui.draw(["x", "z"], () => {
    const [x, z] = [model.get("x"), model.get("z")];
    const { foot, rho, alpha, product, angle } = toy(x, z);
    const weight = [z.map((v) => -v / 2), z.map((v) => v / 2)];
    [0, 1].forEach((k) => ui.polygon(cell(weight, [0, 0], k, ui.view), k));
    const along = [-z[1], z[0]].map((v) => (3 * ui.view * v) / norm(z));
    ui.line(step(origin, -1, along), along);
    ui.circle(x, rho, INK, "6 5");
    ui.line(x, foot, RUST, 4);
    ui.arrow(origin, x, BLUE, 10);
    ui.arrow(origin, z, RUST, 10);
    ui.dot(foot);
    ui.number("rho", "ρ, distance to the boundary", rho);
    ui.number("alpha", "α = |⟨x, z⟩| / ‖z‖", alpha);
    ui.number("product", "‖x‖ · |cos δ|", product);
    ui.number("angle", "δ, angle between x and z", angle, 1, "°");
    ui.number("lengths", "‖x‖, ‖z‖", `${norm(x).toFixed(2)}, ${norm(z).toFixed(2)}`);
  });
  const shortest = 0.1 * ui.view; // z = 0 is no classifier
  const lengthen = (p) => (norm(p) > shortest ? p : step(origin, shortest, norm(p) ? p.map((v) => v / norm(p)) : [1, 0]));
  ui.handle("z", "z", RUST, { place: lengthen });
  ui.handle("x", "x", BLUE);
  ui.again(["x", "z"]);
  ui.announce(["x", "z"], () => {
    const { rho, alpha, angle } = toy(model.get("x"), model.get("z"));
    return `ρ ${rho.toFixed(2)}, α ${alpha.toFixed(2)}, angle ${angle.toFixed(0)}°.`;
  });
}

const shared = (model) => ({ x: list(2, model.get("view")), z: list(2, model.get("view")) });

export default { render, shared };
