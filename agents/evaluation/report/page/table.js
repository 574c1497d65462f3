// The table of all controllers.
const measure = (key, value, shown) => ({ key, value, shown: shown || ((line) => number(value(line))) });
const columns = [
  measure("speedup", (line) => speedup(line).geomean),
  { key: "interval", value: (line) => speedup(line).ci_low,
    shown: (line) => interval(speedup(line).ci_low, speedup(line).ci_high) },
  { key: "reached", value: (line) => speedup(line).reached,
    shown: (line) => percent(speedup(line).reached) },
  { key: "worst", value: (line) => speedup(line).worst,
    shown: (line) => known(speedup(line).worst)
      ? number(speedup(line).worst) + " (" + speedup(line).worst_task + ")" : "-" },
  { key: "tasks_interval", value: (line) => speedup(line).tasks_ci_low,
    shown: (line) => interval(speedup(line).tasks_ci_low, speedup(line).tasks_ci_high) },
  measure("iqm", (line) => speedup(line).iqm),
  { key: "probability_of_improvement", value: (line) => speedup(line).probability_of_improvement,
    shown: (line) => {
      const { probability_of_improvement: share, probability_ci_low: low,
        probability_ci_high: high } = speedup(line);
      return percent(share) + (known(low) ? ` (${percent(low)} to ${percent(high)})` : "");
    } },
  measure("speedup_with_search", (line) => (line.speedup_with_search || {})[state.reference]),
  measure("profile_score", (line) => ((line.profile || {})[state.reference] || {}).score),
  measure("algoperf_score", (line) => line.algoperf_score),
  measure("final_test_loss_ratio", (line) => line.final_test_loss_ratio),
  { key: "divergence_rate", value: (line) => line.divergence_rate,
    shown: (line) => percent(line.divergence_rate) },
  measure("roll_backs", (line) => line.roll_backs),
  measure("switches", (line) => line.switches),
  measure("seconds", (line) => line.seconds),
  { key: "search_samples", value: (line) => line.search_samples,
    shown: (line) => known(line.search_samples)
      ? Math.round(line.search_samples).toLocaleString("en") : "-" },
];

function heading(key, label, note) {
  const button = el("button", { type: "button", "data-key": key,
    onclick: () => set(state.sort === key ? { descending: !state.descending }
      : { sort: key, descending: key !== "name" && key !== "kind" }) }, label);
  const cell = el("th", { scope: "col", class: key === "kind" ? "kind" : null,
    "aria-sort": state.sort !== key ? null : state.descending ? "descending" : "ascending" }, button);
  noted(button, el("span", null, note));
  return cell;
}

function sorted(lines) {
  const column = columns.find(({ key }) => key === state.sort);
  const value = column ? column.value : (line) => line[state.sort];
  const sign = state.descending ? -1 : 1;
  // What has no number stands last, whichever way.
  return [...lines].sort((a, b) => {
    const [left, right] = [value(a), value(b)];
    if (!known(left) || !known(right)) return known(right) - known(left);
    return sign * (left < right ? -1 : left > right ? 1 : 0);
  });
}

function bar(line, x) {
  const colour = line.name === data.subject ? "var(--policy)" : "var(--c5)";
  const picture = svg("svg", { width: 150, height: 16, "aria-hidden": "true" });
  picture.append(svg("line", { class: "one", x1: x(1), x2: x(1), y1: 0, y2: 16 }));
  picture.append(intervalMark(speedup(line), x, 8, 12, colour));
  return picture;
}

views.push(() => {
  const table = byId("table");
  const focused = table.contains(document.activeElement) && document.activeElement.dataset.key;
  const lines = data.controllers.filter((line) => !state.kind || line.kind === state.kind);
  const ends = data.controllers.flatMap((line) => {
    const { geomean, ci_low: low, ci_high: high } = speedup(line);
    return [geomean, low, high, 1];
  });
  const x = scale(extent(ends, true), [5, 145], true);
  const label = data.measures;
  const head = el("tr", null,
    heading("name", "Controller", "By name."),
    heading("kind", "Kind", "What sort of controller it is."),
    columns.flatMap(({ key }) => {
      const cell = heading(key, label[key].label, label[key].note);
      return key === "speedup"
        ? [cell, el("th", { class: "plain", scope: "col" }, "log scale, 1 dashed")] : [cell];
    }));
  const body = sorted(lines).map((line) => {
    const { mark, label: kind, note } = data.kinds[line.kind] || { label: line.kind, note: "", mark: "" };
    const name = el("th", { scope: "row" }, line.name,
      mark ? el("span", { class: "tag" }, mark) : null);
    noted(name, el("b", null, line.name), el("span", null, line.description || note));
    return el("tr", { class: line.name === data.subject ? "subject" : null, "data-name": line.name },
      name, el("td", { class: "text kind" }, kind),
      columns.flatMap(({ key, shown }) => {
        const cell = el("td", null, shown(line));
        return key === "speedup" ? [cell, el("td", null, bar(line, x))] : [cell];
      }));
  });
  table.replaceChildren(el("thead", null, head), el("tbody", null, body));
  if (focused) table.querySelector(`button[data-key="${focused}"]`).focus();
  byId("kind-note").textContent = state.kind ? (data.kinds[state.kind] || { note: "" }).note
    : `${lines.length} controllers. Speed-up to the final loss of ${referenceLabel(state.reference)}.`;
});

byId("meanings").append(...Object.values(data.measures).flatMap(({ label, note }) =>
  [el("dt", null, label), el("dd", null, note)]));
