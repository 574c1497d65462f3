// What a controller did on a task: learning rate, batch size, optimizer.
function medianOf(rows) {
  const longest = Math.max(0, ...rows.map((row) => row.length));
  return Array.from({ length: longest }, (_, index) => {
    const values = rows.map((row) => row[index]).filter(known).sort((a, b) => a - b);
    if (!values.length) return null;
    const middle = (values.length - 1) / 2;
    return (values[Math.floor(middle)] + values[Math.ceil(middle)]) / 2;
  });
}
// A decision holds until the next: the last value is drawn to the end of the budget.
const held = (row) => (row.length ? [...row, row[row.length - 1]] : row);

function panel(title, rows, samples, budget, options) {
  const host = el("div", { class: "chart" });
  byId("schedule").append(host);
  const flat = rows.flat();
  if (!flat.some(known)) {
    host.append(el("h3", null, `${title}: none, its optimizer finds its own.`));
    return;
  }
  const inner = el("div");
  host.append(el("h3", null, title + (rows.length === 1 ? ", the same in every seed" : "")), inner);
  const line = (row, thin) => ({ name: state.controller, x: samples.slice(0, row.length + 1),
    y: held(row), thin });
  const series = rows.length > 1 ? rows.map((row) => line(row, true)) : [];
  lineChart(inner, [...series, line(medianOf(rows), false)], {
    stepped: true,
    label: `${title} of ${state.controller} on ${state.task}. Arrow keys tell the median.`,
    x: { domain: [0, budget], label: options.last ? "samples" : "" },
    y: { domain: extent(flat, true, 0.12), log: true, ...options.y },
    margin: options.last ? {} : { bottom: 24 },
    height: options.height,
    tell: (value) => number(value),
    at: (point) => `${point.toLocaleString("en")} samples`,
  });
}

function strips(rows, samples, budget, seeds) {
  const used = [...new Set(rows.flat().filter(known))].sort((a, b) => a - b);
  const host = el("div", { class: "chart" });
  byId("schedule").append(host);
  if (!used.length) {
    host.append(el("h3", null, "Optimizer: not in the file."));
    return;
  }
  const fillOf = (index) => ["var(--c4)", "var(--c3)", "var(--c2)", "var(--c1)", "var(--c0)",
    "var(--c6)", "var(--c5)"][index % N_COLOURS];
  const thick = rows.length > 1 ? 15 : 24;
  const inner = el("div");
  host.append(
    el("h3", null, "Optimizer" + (rows.length === 1 && seeds.length > 1 ? ", the same in every seed" : "")),
    inner);
  const chart = frame(inner, {
    label: `Optimizers of ${state.controller} on ${state.task}: `
      + used.map((index) => data.optimizers[index]).join(", "),
    x: { domain: [0, budget], label: "samples" },
    margin: { top: 4 }, height: rows.length * thick + 46,
  });
  rows.forEach((row, line) => {
    const top = chart.inner.top + line * thick;
    if (rows.length > 1) {
      chart.plot.append(svg("text", { x: chart.inner.left - 8, y: top + 11, "text-anchor": "end",
        style: "font-size:10px" }, line ? String(seeds[line].seed) : `seed ${seeds[0].seed}`));
    }
    for (let start = 0; start < row.length;) {
      let end = start;
      while (end + 1 < row.length && row[end + 1] === row[start]) end++;
      const [left, right] = [chart.x(samples[start]), chart.x(samples[end + 1] ?? budget)];
      if (known(row[start])) {
        const name = data.optimizers[row[start]];
        const piece = svg("rect", { x: left, y: top, width: Math.max(1, right - left),
          height: thick - 3, rx: 2, fill: fillOf(row[start]), class: "strip" });
        const from = samples[start].toLocaleString("en");
        noted(piece, el("b", null, name), el("span", null, `from ${from} samples on`));
        chart.plot.append(piece);
        if (right - left > 12 + 8 * name.length && rows.length === 1) {
          chart.plot.append(svg("text", { x: left + 8, y: top + 15, "pointer-events": "none",
            style: "fill:var(--paper);font-weight:600" }, name));
        }
      }
      start = end + 1;
    }
  });
  inner.append(chart.root);
  host.append(el("div", { class: "legend" }, el("ul", null, used.map((index) => {
    const swatch = el("span", { class: "swatch" });
    swatch.style.background = fillOf(index);
    return el("li", null, swatch, data.optimizers[index]);
  }))));
}

views.push(() => {
  byId("schedule").replaceChildren();
  const group = (data.runs[state.task] || {})[state.controller];
  if (!group) {
    byId("schedule").append(el("p", { class: "note" }, "There is no run of it on this task."));
    return;
  }
  const { schedule, samples } = group;
  const budget = tasks.get(state.task).budget || samples[samples.length - 1] || 1;
  panel("Learning rate", schedule.learning_rate, samples, budget, { height: 230 });
  const sizes = [...new Set(schedule.batch_size.flat().filter(known))];
  // In a file of before there is no micro_batch_size.
  const { micro_batch_size: examples } = tasks.get(state.task);
  const unit = "micro-batches" + (known(examples) ? ` of ${examples} examples` : "");
  panel(`Batch size in ${unit}`, schedule.batch_size, samples, budget,
    { height: 150, y: sizes.length && sizes.length < 5 ? { ticks: sizes } : {} });
  strips(schedule.optimizer, samples, budget, group.seeds);
});
