/** The state of a widget in the address of its page, as #toy.x=1.5,1&toy.z=0.5,1.5 with the name of
 *  the widget before each value: its kind, and its number from the second of a kind on. */
function addressOf(place) {
  const kind = place.dataset.kind;
  const number = [...document.querySelectorAll(`[data-kind="${kind}"]`)].indexOf(place) + 1;
  const start = (number > 1 ? kind + number : kind) + ".";
  const parts = () => location.hash.slice(1).split("&").filter((part) => part.includes("="));
  const mine = (part) => part.startsWith(start);
  const written = (values) =>
    Object.entries(values).map(([key, text]) => start + key + "=" + encodeURIComponent(text).replaceAll("%2C", ","));
  let values = {}, timer = 0;

  const write = () => {
    timer = 0;
    const all = [...parts().filter((part) => !mine(part)), ...written(values)].join("&");
    history.replaceState(null, "", all ? "#" + all : location.pathname + location.search);
  };
  const page = () => location.href.split("#")[0];
  return {
    /** The texts that the address has for this widget, by key. */
    read() {
      const texts = {};
      for (const part of parts().filter(mine)) {
        const [key, text] = [part.slice(start.length, part.indexOf("=")), part.slice(part.indexOf("=") + 1)];
        try { texts[key] = decodeURIComponent(text); } catch { /* no text: a link that was cut off */ }
      }
      return texts;
    },
    /** Put these texts into the address, a moment later: browsers allow a few changes a second. */
    write(texts) {
      values = texts;
      timer ||= setTimeout(write, 300);
    },
    /** Call f when a reader goes to another state of this page, and show the widget that a link names first. */
    follow(f) {
      addEventListener("hashchange", f);
      if (parts().length && mine(parts()[0])) addEventListener("load", () => place.scrollIntoView());
    },
    /** A button that copies the address of the page with the state of this widget alone. */
    button(parent) {
      const row = parent.appendChild(document.createElement("div"));
      row.className = "share";
      const button = row.appendChild(document.createElement("button"));
      const said = row.appendChild(document.createElement("output"));
      button.type = "button";
      button.textContent = "Copy link";
      button.addEventListener("click", async () => {
        const link = [page(), written(values).join("&")].filter(Boolean).join("#");
        try {
          await navigator.clipboard.writeText(link);
          said.textContent = " Copied: the link leads to what you see.";
        } catch { // a browser gives no clipboard to a page without encryption
          said.textContent = " " + link;
        }
      });
    },
  };
}
