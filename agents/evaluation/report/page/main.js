// Controls, theme, and drawing anew when the width changes.
const choices = {
  reference: data.references.map(({ name, label }) => [name, label]),
  kind: [["", "all kinds"], ...[...new Set(data.controllers.map(({ kind }) => kind))]
    .map((kind) => [kind, (data.kinds[kind] || { label: kind }).label])],
  task: data.tasks.map(({ name }) => [name, name]),
  measure: Object.entries(MEASURES),
  controller: data.controllers.map(({ name }) => [name, name]),
  dots: [["", "a dot for each task"], ...data.tasks.map(({ name }) => [name, `${name}, each run`])],
};
for (const select of document.querySelectorAll("select[data-state]")) {
  const key = select.dataset.state;
  select.append(...choices[key].map(([value, label]) => el("option", { value }, label)));
  select.addEventListener("change", () => set({ [key]: select.value }));
}
// A choice that stands in several places is the same in all of them.
views.push(() => {
  for (const select of document.querySelectorAll("select[data-state]")) {
    select.value = state[select.dataset.state];
  }
});

const theme = byId("theme");
const system = matchMedia("(prefers-color-scheme: dark)");
let chosen = null;
try {
  chosen = localStorage.getItem("trainpilot-theme");
} catch {
  // A page from a file may have no storage: the theme is then the system's.
}
function paint() {
  const dark = chosen ? chosen === "dark" : system.matches;
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  theme.textContent = dark ? "Light" : "Dark";
}
theme.addEventListener("click", () => {
  chosen = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  try {
    localStorage.setItem("trainpilot-theme", chosen);
  } catch {
    // It holds until the page is closed.
  }
  paint();
});
system.addEventListener("change", paint);
paint();

addEventListener("keydown", (event) => event.key === "Escape" && hideTip());
addEventListener("scroll", hideTip, { passive: true });
let width = 0;
new ResizeObserver(() => {
  if (byId("main").clientWidth === width) return;
  width = byId("main").clientWidth;
  set({});
}).observe(byId("main"));
