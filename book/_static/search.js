// On the page of the search: excerpts that show what a page says, not its list of contents and its code.
const SIGNS = {
  alpha: "α", beta: "β", delta: "δ", ell: "ℓ", epsilon: "ε", varepsilon: "ε", lambda: "λ", mu: "μ", rho: "ρ", sigma: "σ",
  Psi: "Ψ", nabla: "∇", partial: "∂", sum: "Σ", in: "∈", le: "≤", ge: "≥", neq: "≠", approx: "≈", to: "→", infty: "∞",
  dagger: "†", cdot: "·", times: "×", langle: "⟨", rangle: "⟩", lVert: "‖", rVert: "‖", lvert: "|", rvert: "|", inf: "inf", min: "min", max: "max", log: "log", cos: "cos",
};

/** TeX as plain text, as well as it goes in a line. */
const readable = (text) => text
  .replace(/\\tilde\s*\\rho/g, "ρ̃")
  .replace(/\\([a-zA-Z]+)\s?/g, (all, name) => SIGNS[name] ?? "")
  .replace(/\\\|/g, "‖")
  .replace(/\\[^a-zA-Z]|[{}$^_]/g, "");

const USELESS = ".headerlink, script, style, .lesson-tools, .cell_input, summary, .toctree-wrapper, .highlight, .eqno";

addEventListener("DOMContentLoaded", () => {
  Search.htmlToText = (html, anchor) => {
    const page = new DOMParser().parseFromString(html, "text/html");
    const place = anchor ? page.getElementById(decodeURIComponent(anchor.slice(1))) : null;
    let shown = place ?? page.querySelector("article.bd-article");
    while (shown.matches("dt")) shown = shown.nextElementSibling; // of a term or a name: what is said of it
    shown.querySelectorAll(USELESS).forEach((element) => element.remove());
    shown.querySelectorAll(".math").forEach((formula) => { formula.textContent = readable(formula.textContent); });
    return shown.textContent.replace(/\s+/g, " ").trim();
  };
});
