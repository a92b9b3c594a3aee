const PAPER = 640; // width of the text on A4, in pixels of a style sheet

// What a style sheet cannot do. For paper: open what is closed, and leave the dark theme.
addEventListener("beforeprint", () => {
  const root = document.documentElement;
  const theme = root.dataset.theme;
  const closed = document.querySelectorAll("details:not([open])");
  root.dataset.theme = "light";
  const explorers = document.querySelectorAll(".explorer svg");
  closed.forEach((details) => { details.open = true; });
  explorers.forEach((svg) => { svg.role = "img"; }); // on paper it is a picture with a text
  fitFormulas(PAPER);
  addEventListener("afterprint", () => {
    root.dataset.theme = theme;
    delete root.dataset.print;
    closed.forEach((details) => { details.open = false; });
    explorers.forEach((svg) => { svg.role = "group"; });
    fitFormulas();
  }, { once: true });
});

/** Print this page, with all that it hides or, as "text", without code and solutions. */
async function printPage(what) {
  document.documentElement.dataset.print = what;
  const images = [...document.querySelectorAll(".bd-article img")];
  images.forEach((image) => { image.loading = "eager"; });
  await Promise.allSettled(images.map((image) => image.decode()));
  print();
}

// What the theme says to screen readers in other words than it shows, or in roles that do not fit.
addEventListener("DOMContentLoaded", () => {
  const named = "details.hide > summary, .search-button-field, .theme-switch-button";
  document.querySelectorAll(named).forEach((button) => button.removeAttribute("aria-label"));
  document.querySelectorAll(".citation-list > *").forEach((entry) => { entry.role = "listitem"; });
  const met = new Set(); // a function that a page names ten times is one stop of the Tab key
  document.querySelectorAll("a.sphinx-codeautolink-a").forEach((link) => {
    if (met.has(link.href)) link.tabIndex = -1;
    met.add(link.href);
  });
  document.querySelectorAll("[data-print-page]").forEach((button) =>
    button.addEventListener("click", () => printPage(button.dataset.printPage)));
  document.querySelectorAll(".frames").forEach(loadWhenNear);
  waitForFormulas();
  reachTables();
  addEventListener("resize", reachTables);
  addEventListener("toggle", reachTables, true); // in a box that was closed they had no width
});

/** Tables that are wider than the page are Tab stops, so that keys can scroll them; others are none. */
function reachTables() {
  document.querySelectorAll(".scrolls").forEach((box) => {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  });
}

/** The frames of a player are files: get them before somebody moves a slider. */
function loadWhenNear(player) {
  new IntersectionObserver(([entry], observer) => {
    if (!entry.isIntersecting) return;
    observer.disconnect();
    const { frames } = JSON.parse(player.querySelector("script[type='application/json']").textContent);
    frames.filter(Boolean).forEach((address) => { new Image().src = address; });
  }, { rootMargin: "300px" }).observe(player);
}

/** Make displayed formulas that are wider than the page a little smaller; what is wider still can be scrolled. */
function fitFormulas(width = Infinity) {
  document.querySelectorAll("div.math mjx-container[display=true]").forEach((formula) => {
    const own = (formula.dataset.size ??= formula.style.fontSize || "100%"); // MathJax fits it to the text
    formula.style.fontSize = own;
    const fits = Math.min(width, formula.clientWidth) / formula.scrollWidth;
    if (fits < 1) formula.style.fontSize = `calc(${own} * ${Math.max(0.62, 0.99 * fits)})`;
    if (fits < 0.62) formula.tabIndex = 0; // what scrolls must be reached by keys
    else formula.removeAttribute("tabindex");
  });
}

function waitForFormulas() {
  window.MathJax?.startup?.promise?.then(() => fitFormulas());
  addEventListener("resize", () => fitFormulas());
}
