// Shows what a link leads to (see _ext/previews.py), while the mouse or the focus is on it; Escape closes.
addEventListener("DOMContentLoaded", () => {
  const store = document.getElementById("previews");
  if (!store) return;
  const texts = JSON.parse(store.textContent);
  let box = null, timer = 0;

  const close = () => { clearTimeout(timer); box?.remove(); box = null; };
  const later = (f, wait) => { clearTimeout(timer); timer = setTimeout(f, wait); };

  async function open(link, text) {
    close();
    box = document.createElement("div");
    box.className = "preview";
    box.role = "note";
    box.innerHTML = text;
    box.addEventListener("pointerenter", () => clearTimeout(timer));
    box.addEventListener("pointerleave", () => later(close, 200));
    const mine = document.body.appendChild(box);
    await window.MathJax?.typesetPromise?.([mine]);
    const at = link.getBoundingClientRect(), size = mine.getBoundingClientRect();
    const below = at.bottom + size.height + 8 < innerHeight || at.top < size.height;
    mine.style.top = `${scrollY + (below ? at.bottom + 4 : at.top - size.height - 4)}px`;
    mine.style.left = `${scrollX + Math.max(8, Math.min(at.left, document.documentElement.clientWidth - size.width - 8))}px`;
  }

  document.querySelectorAll("article.bd-article a[href*='#']").forEach((link) => {
    const text = texts[link.getAttribute("href")];
    if (!text) return;
    link.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && later(() => open(link, text), 350));
    link.addEventListener("pointerleave", () => later(close, 300));
    link.addEventListener("focus", () => link.matches(":focus-visible") && later(() => open(link, text), 350));
    link.addEventListener("blur", () => later(close, 100));
  });
  addEventListener("keydown", (event) => event.key === "Escape" && close());
});
