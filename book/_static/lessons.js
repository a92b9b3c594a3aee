// What a style sheet cannot do. For paper: open what is closed, and leave the dark theme.
addEventListener("beforeprint", () => {
  const root = document.documentElement;
  const theme = root.dataset.theme;
  const closed = document.querySelectorAll("details:not([open])");
  root.dataset.theme = "light";
  const explorers = document.querySelectorAll(".explorer svg");
  closed.forEach((details) => { details.open = true; });
  explorers.forEach((svg) => { svg.role = "img"; }); // on paper it is a picture with a text
  addEventListener("afterprint", () => {
    root.dataset.theme = theme;
    closed.forEach((details) => { details.open = false; });
    explorers.forEach((svg) => { svg.role = "group"; });
  }, { once: true });
});

// What the theme says to screen readers in other words than it shows, or in roles that do not fit.
addEventListener("DOMContentLoaded", () => {
  const named = "details.hide > summary, .search-button-field, .theme-switch-button";
  document.querySelectorAll(named).forEach((button) => button.removeAttribute("aria-label"));
  document.querySelectorAll(".citation-list > *").forEach((entry) => { entry.role = "listitem"; });
});
