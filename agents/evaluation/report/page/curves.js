// Loss curves of a task, and the choice of controllers that curves and profiles share.
const MEASURES = {
  outer_valid_loss: "Held-out loss (outer_valid)",
  valid_loss: "Validation loss (valid)",
  test_loss: "Test loss",
  test_accuracy: "Test accuracy",
};
const MOST_AT_FIRST = 5;

function atFirst() {
  const standIns = ["adam_default", "shared_cosine", "oracle_fixed"].map((name) =>
    (data.references.find((reference) => reference.name === name) || {}).controller);
  const [rivals, others] = [[], []];
  for (const name of controllers.keys()) (kindOf(name).mark ? others : rivals).push(name);
  const wanted = [data.subject, data.rival, ...standIns, ...rivals, ...others];
  return [...new Set(wanted.filter((name) => controllers.has(name)))].slice(0, MOST_AT_FIRST);
}
state.shown = show(atFirst());

function legend(host) {
  const wasOpen = host.querySelector("details")?.open;
  const focused = host.contains(document.activeElement) && document.activeElement.dataset.name;
  const items = state.shown.map((name) => {
    const { stroke, width, dash } = look(name);
    const absent = host.dataset.legend === "profile" && !profileOf(name);
    return el("li", { class: name === data.subject ? "own" : absent ? "absent" : null },
      svg("svg", { width: 26, height: 10, "aria-hidden": "true" },
        svg("line", { x1: 1, x2: 25, y1: 5, y2: 5, stroke, "stroke-width": width,
          "stroke-dasharray": dash })),
      el("span", null, name, kindOf(name).mark
        ? el("span", { class: "tag" }, kindOf(name).mark) : null,
      absent ? el("span", { class: "tag" }, "not compared") : null));
  });
  const chips = data.controllers.map(({ name }) => {
    const on = state.shown.includes(name);
    return el("button", { type: "button", "aria-pressed": String(on), "data-name": name,
      onclick: () => set({ shown: show(on ? state.shown.filter((other) => other !== name)
        : [...state.shown, name]) }) }, name);
  });
  host.replaceChildren(el("ul", null, items),
    el("details", { open: wasOpen ? "" : null },
      el("summary", null, `Choose controllers (${state.shown.length} of ${controllers.size})`),
      el("div", { class: "chips", role: "group", "aria-label": "Controllers shown" }, chips)));
  if (focused) [...host.querySelectorAll("button")].find((b) => b.dataset.name === focused).focus();
}
views.push(() => document.querySelectorAll("[data-legend]").forEach(legend));

views.push(() => {
  const host = byId("curves");
  const byName = data.runs[state.task] || {};
  const series = state.shown.filter((name) => byName[name]).map((name) => {
    const { samples, curves } = byName[name];
    const [low, y, high] = curves[state.measure];
    return { name, x: samples, y, low, high };
  });
  const accuracy = state.measure === "test_accuracy";
  const log = state.log && !accuracy;
  const task = tasks.get(state.task);
  const target = state.measure === "outer_valid_loss" ? (task.targets || {})[state.reference] : null;
  const spread = series.flatMap(({ y, low, high }) => [...y, ...low, ...high]);
  lineChart(host, series, {
    label: `${MEASURES[state.measure]} of ${state.task} over samples, for ${state.shown.join(", ")}. `
      + "Arrow keys tell the values.",
    x: { domain: [0, task.budget || 1], label: "samples" },
    y: { domain: extent([...spread, target], log), log },
    rule: { at: target, label: `final loss of ${referenceLabel(state.reference)}` },
    tell: (value) => number(value),
    at: (samples) => `${samples.toLocaleString("en")} samples`,
  });
  byId("log").setAttribute("aria-pressed", String(state.log));
  byId("log").disabled = accuracy;
  byId("task-note").textContent = [task.dataset, task.modality, task.model,
    known(task.n_params) ? task.n_params.toLocaleString("en") + " parameters" : null,
    known(task.budget) ? task.budget.toLocaleString("en") + " samples" : null]
    .filter((part) => part).join(", ") + ".";
});
byId("log").addEventListener("click", () => set({ log: !state.log }));
