// What a style sheet cannot do for paper: open what is closed, and leave the dark theme.
addEventListener("beforeprint", () => {
  const root = document.documentElement;
  const theme = root.dataset.theme;
  const closed = document.querySelectorAll("details:not([open])");
  root.dataset.theme = "light";
  closed.forEach((details) => { details.open = true; });
  addEventListener("afterprint", () => {
    root.dataset.theme = theme;
    closed.forEach((details) => { details.open = false; });
  }, { once: true });
});
