// Stands in for the model that JupyterLab hands to a widget, where there is no kernel, and keeps the
// part of the state that the widget calls `shared` in the address of the page.
const model = {
  get: (key) => state[key],
  set(key, value) {
    state[key] = value;
    (listeners[`change:${key}`] ?? []).forEach((f) => f());
    if (key in shared) address.write(texts());
  },
  save_changes() {},
  on: (event, f) => (listeners[event] ??= []).push(f),
};
const shared = widget.shared(model), address = addressOf(place), start = {};
for (const key in shared) start[key] = shared[key].text(state[key]);
const texts = () => Object.fromEntries(
  Object.keys(shared).map((key) => [key, shared[key].text(state[key])]).filter(([key, text]) => text !== start[key]),
);
/** The value that the address has for a key, else the one of the page; what is no such value counts as none. */
const addressed = (key, found) => (key in found ? shared[key].value(found[key]) : undefined) ?? shared[key].value(start[key]);
for (const key in address.read()) if (key in shared) state[key] = addressed(key, address.read());
address.write(texts());
widget.render({ model, el: place });
address.button(place.querySelector(".side"));
address.follow(() => {
  const found = address.read();
  for (const key in shared) if (shared[key].text(state[key]) !== (found[key] ?? start[key])) model.set(key, addressed(key, found));
});
