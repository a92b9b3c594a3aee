// Lesson 5: a ReLU network in the plane, cut into its linear regions by Python.

/** Region of x, exact ρ, linearized ρ̃ and the affine radius of x (distance to the nearest kink). */
export function planar({ regions, cells, reach }, x) {
  const home = regions.findIndex(({ polygon }) => contains(polygon, x));
  const { weight, bias, polygon } = regions[home];
  const lin = linearized(logits(weight, bias, x), weight);
  const others = cells.filter(([k]) => k !== lin.winner).flatMap(([, corners]) => edges(corners));
  const foot = nearest(x, others);
  const kink = nearest(x, edges(polygon).filter(([a, b]) => !onFrame(a, b, reach)));
  const margin = reach - Math.max(...x.map(Math.abs)); // beyond the frame nothing is known
  const known = (d) => (d <= margin ? d : Infinity);
  return {
    home, winner: lin.winner, tilde: lin.value, linearFoot: footOf(x, lin), foot: foot.point,
    rho: known(foot.distance), kink: kink.point, radius: known(kink.distance),
  };
}

/** Nearest point of many segments, and its distance. */
function nearest(x, segments) {
  let best = { point: null, distance: Infinity };
  for (const [a, b] of segments) {
    const point = nearestOnSegment(x, a, b);
    const distance = norm(minus(x, point));
    if (distance < best.distance) best = { point, distance };
  }
  return best;
}

const onFrame = (a, b, reach) => {
  const middle = [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
  return Math.max(...middle.map(Math.abs)) >= reach * (1 - 1e-9);
};

function verdict({ tilde, rho, radius }) {
  if (tilde < radius) return "ρ̃ is smaller than the affine radius: its ball stays in the blue region, and so ρ̃ = ρ.";
  const start = "The ball of radius ρ̃ leaves the blue region first at the blue dot. Behind it the network is another affine function: ";
  const error = tilde / rho - 1;
  if (!Number.isFinite(error)) return start + "no comparison, one of the two is infinite.";
  if (Math.abs(error) < 1e-9) return start + "ρ̃ = ρ all the same, because the nearest boundary lies where nothing changed.";
  return start + `ρ̃ is ${(100 * Math.abs(error)).toFixed(1)} % too ${error > 0 ? "large" : "small"}.`;
}

function render({ model, el }) {
  const ui = frame(el, model, "Plane with the point x, linear regions and decision boundaries of a network");
  const sentence = make(ui.side, "p");
  const nameOf = (k) => model.get("names")[k] ?? `class ${k}`;
  const net = Object.fromEntries(["regions", "cells", "boundary", "reach"].map((key) => [key, model.get(key)]));
  ui.draw(["x"], () => {
    const x = model.get("x");
    const p = planar(net, x);
    net.cells.forEach(([k, polygon]) => ui.polygon(polygon, k));
    net.regions.forEach(({ polygon }) => ui.outline(polygon));
    net.boundary.forEach(([a, b]) => ui.line(a, b));
    ui.outline(net.regions[p.home].polygon, BLUE, 3);
    ui.circle(x, p.tilde, INK, "6 5");
    ui.circle(x, p.rho, RUST);
    if (p.radius < Infinity) ui.dot(p.kink, BLUE);
    if (p.rho < Infinity) ui.dot(p.foot, RUST);
    ui.number("rho", "exact ρ (solid, rust)", p.rho);
    ui.number("tilde", "linearized ρ̃ (dashed)", p.tilde);
    ui.number("radius", "affine radius: nearest kink (blue dot)", p.radius);
    ui.number("winner", "decision F(x)", nameOf(p.winner));
    sentence.textContent = verdict(p);
  });
  ui.handle("x", "x", BLUE);
  ui.again(["x"]);
  ui.announce(["x"], () => {
    const { rho, tilde, radius, winner } = planar(net, model.get("x"));
    const [exact, linear, affine] = [rho, tilde, radius].map((value) => (Number.isFinite(value) ? value.toFixed(2) : "infinite"));
    return `ρ ${exact}, ρ̃ ${linear}, affine radius ${affine}; ${nameOf(winner)}.`;
  });
}

export default { render, shared: (model) => ({ x: list(2, model.get("view")) }) };
