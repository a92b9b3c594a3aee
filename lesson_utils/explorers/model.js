// Stands in for the model that JupyterLab hands to a widget, where there is no kernel.
const model = {
  get: (key) => state[key],
  set(key, value) {
    state[key] = value;
    (listeners[`change:${key}`] ?? []).forEach((f) => f());
  },
  save_changes() {},
  on: (event, f) => (listeners[event] ??= []).push(f),
};
