// Lesson 8: two networks trained side by side from one seed, each with its own strength λ of the gradient penalty.

const STRENGTHS = [0, 0.01, 0.03, 0.1, 0.3, 1, 3, 10];
const EPOCHS = 40, WATCHED = 50, SHAPE = [1, 8, 8]; // images whose medians are shown

const median = (values) => {
  const sorted = [...values].sort((a, b) => a - b), middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
};

/** The digits of lesson_utils.browser.digits_for_browser: 64 grey values 0 … 16 and a label each. */
function digitsOf(bytes, { train }) {
  const all = new Uint8Array(bytes), images = [], labels = [];
  for (let at = 0; at < all.length; at += 65) {
    images.push(Float64Array.from(all.subarray(at, at + 64), (value) => value / 16));
    labels.push(all[at + 64]);
  }
  const part = (from, to) => ({ images: images.slice(from, to), labels: labels.slice(from, to) });
  return { train: part(0, train), test: part(train) };
}

/** Curves over the epochs of both networks, in one scale. */
function drawCurve(svg, name, histories, key) {
  svg.replaceChildren();
  const high = Math.max(0.5, ...histories.flatMap((history) => history.map((one) => one[key])).filter(Number.isFinite));
  const px = (epoch, value) => [34 + (256 * epoch) / EPOCHS, 112 - (100 * value) / high];
  make(svg, "polyline", { points: [px(0, high), px(0, 0), px(EPOCHS, 0)].join(" "), fill: "none", stroke: "#59636e" });
  make(svg, "text", { x: 2, y: 18 }, high.toFixed(1));
  make(svg, "text", { x: 2, y: 116 }, "0");
  make(svg, "text", { x: 290, y: 128, "text-anchor": "end" }, `${EPOCHS} epochs`);
  histories.forEach((history, k) => make(svg, "polyline", {
    points: history.map((one) => px(one.epoch, one[key])).join(" "), fill: "none", "stroke-width": 3,
    stroke: [BLUE, RUST][k], "stroke-dasharray": ["", "7 4"][k],
  }));
  const now = histories.map((history) => history.at(-1)?.[key].toFixed(2) ?? "nothing yet");
  svg.setAttribute("aria-label", `${name} over the epochs. Left network: ${now[0]}, right network: ${now[1]}`);
}

/** One network: its λ, its maps of five digits, its numbers. */
function trainee(parent, model, ui, key, title) {
  const box = make(parent, "section", { class: "net", "aria-label": title, "data-network": key });
  const label = make(box, "label", {}, `λ, ${title}`);
  const value = make(label, "span");
  const range = { type: "range", min: 0, max: STRENGTHS.length - 1, step: 1, "aria-label": `λ, ${title}` };
  const input = make(label, "input", { ...range, ...OWN_KEYS });
  input.addEventListener("input", () => ui.tell(key, STRENGTHS[input.value]));
  ui.draw([key], () => {
    input.value = STRENGTHS.indexOf(model.get(key));
    value.textContent = String(model.get(key));
    input.setAttribute("aria-valuetext", value.textContent);
  });
  const row = make(box, "div", { class: "five" });
  const maps = Array.from({ length: 5 }, (_, k) => make(row, "canvas", { role: "img", "aria-label": `map ${k + 1}` }));
  return { key, maps, number: numbersIn(make(make(box, "table"), "tbody")), history: [] };
}

function render({ model, el }) {
  const ui = panel(el, model, () => {});
  make(ui.root, "style").textContent = PICTURES + `
.explorer .top { flex: 1 1 100%; }
.explorer .top button { margin: 0 6px 6px 0; }
.explorer .five { display: grid; grid-template-columns: repeat(5, 1fr); gap: 4px; max-width: 320px; }
.explorer .curve { flex: 1 1 260px; min-width: 0; }
.explorer .curve svg { width: 100%; max-width: 340px; }
.explorer .curve svg text { font-size: 13px; }`;
  const engine = (workers[ENGINE] ??= started(ENGINE));
  const controls = make(ui.root, "div", { class: "top" });
  const run = ui.button("Train", () => (running ? stop() : train()), controls);
  ui.button("Start again", () => restart(), controls);
  ui.button("Another seed", () => ui.tell("seed", model.get("seed") + 1), controls);
  const five = make(controls, "div", { class: "five" });
  const images = Array.from({ length: 5 }, (_, k) => make(five, "canvas", { role: "img", "aria-label": `digit ${k + 1}` }));
  const nets = [["first", "left network"], ["second", "right network"]].map((names) => trainee(ui.root, model, ui, ...names));
  const [alphas, tildes] = ["median α", "median ρ̃"].map((name) => {
    const box = make(ui.root, "div", { class: "curve" });
    const svg = make(box, "svg", { viewBox: "0 0 300 134", role: "img", "aria-label": `${name} over the epochs: not trained yet` });
    make(box, "div", { class: "caption" }, `${name} of ${WATCHED} test images; left network solid, right one dashed`);
    return svg;
  });
  const sentence = ui.sentence();
  ui.root.append(ui.side);
  const name = `${model.get("digits").key}-${Math.random()}`; // two widgets of a page share a worker
  let data = null, running = false, round = 0;

  /** Accuracy, and the medians of α and ρ̃, on the test images that are watched. */
  async function watch(net, mine) {
    const { images: x, labels } = data.test;
    const answers = await Promise.all(x.slice(0, WATCHED).map((image) => engine({ job: "gradients", network: name + net.key, image })));
    const scores = await engine({ job: "scores", network: name + net.key, images: x });
    if (mine !== round) return;
    const found = answers.map((one, k) => measures([...x[k]], [...one.scores], one.gradients));
    const right = scores.filter((one, k) => one.indexOf(Math.max(...one)) === labels[k]).length;
    const now = {
      epoch: net.history.length, accuracy: right / x.length,
      alpha: median(found.map((m) => m.alpha)), tilde: median(found.map((m) => m.tilde)),
    };
    net.history.push(now);
    net.maps.forEach((canvas, k) => {
      paintSigned(canvas, SHAPE, found[k].g);
      canvas.setAttribute("aria-label", `Saliency map of digit ${k + 1}, taken for a ${found[k].winner}`);
    });
    net.number("epoch", "epochs", String(now.epoch));
    net.number("accuracy", "accuracy on 500 test images", now.accuracy);
    net.number("alpha", "median alignment α", now.alpha);
    net.number("tilde", "median ρ̃", now.tilde);
  }
  const draw = () => {
    drawCurve(alphas, "Median alignment", nets.map((net) => net.history), "alpha");
    drawCurve(tildes, "Median linearized robustness", nets.map((net) => net.history), "tilde");
  };
  const say = () => {
    const [a, b] = nets.map((net) => net.history.at(-1));
    sentence.textContent = `Epoch ${a.epoch}. λ = ${model.get("first")}: α ${a.alpha.toFixed(2)}, ρ̃ ${a.tilde.toFixed(2)}, accuracy ${a.accuracy.toFixed(2)}. ` +
      `λ = ${model.get("second")}: α ${b.alpha.toFixed(2)}, ρ̃ ${b.tilde.toFixed(2)}, accuracy ${b.accuracy.toFixed(2)}.`;
  };
  const stop = () => { running = false; run.textContent = "Train"; };

  /** Both networks as they were before training: the same weights, from the same seed. */
  async function restart() {
    stop();
    const mine = ++round;
    try {
      if (!data) {
        const { description, bytes } = await unpacked(model.get("digits"));
        data = digitsOf(bytes, description);
        images.forEach((canvas, k) => {
          paintImage(canvas, SHAPE, data.test.images[k]);
          canvas.setAttribute("aria-label", `Test digit ${k + 1}, a ${data.test.labels[k]}`);
        });
      }
      for (const net of nets) {
        net.history = [];
        await engine({ job: "begin", network: name + net.key, seed: model.get("seed") });
        if (mine === round) await watch(net, mine);
      }
      if (mine !== round) return;
      draw();
      sentence.textContent = `Not trained yet; seed ${model.get("seed")}.`;
    } catch (error) {
      sentence.textContent = `${error.message}.`;
    }
  }

  /** One epoch of each in turn, until the reader stops it or all are done. */
  async function train() {
    if (!nets.every((net) => net.history.length)) return;
    running = true;
    run.textContent = "Pause";
    const mine = round;
    while (running && mine === round && nets[0].history.length <= EPOCHS) {
      for (const net of nets) {
        if (mine !== round) return;
        await engine({ job: "epoch", network: name + net.key, strength: model.get(net.key), ...data.train });
        await watch(net, mine);
      }
      if (mine !== round) return;
      draw();
    }
    stop();
    say();
  }
  ["first", "second", "seed"].forEach((key) => model.on(`change:${key}`, restart)); // another λ, another training
  seen(el).then(restart);
}

const among = { text: String, value: (text) => (STRENGTHS.map(String).includes(text) ? Number(text) : undefined) };

export default { render, shared: () => ({ first: among, second: among, seed: WHOLE }) };
