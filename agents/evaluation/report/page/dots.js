// Speed-up of each controller: a dot for each task, or for each run of one.
function dotsOf(line) {
  if (!state.dots) {
    return Object.entries(line.tasks).map(([task, of]) => ({ label: task,
      value: (of.speedup || {})[state.reference], reached: (of.reached || {})[state.reference] }));
  }
  const group = (data.runs[state.dots] || {})[line.name];
  return (group ? group.seeds : []).map((run) => ({ label: `seed ${run.seed}`,
    value: run.speedup[state.reference], reached: Number(run.reached[state.reference]),
    diverged: run.diverged }));
}

function drawDot(dot, at, middle, colour) {
  const missed = dot.reached === 0;
  const mark = missed
    ? svg("path", { d: `M${at - 4} ${middle - 4}l8 8M${at + 4} ${middle - 4}l-8 8`, stroke: colour,
      "stroke-width": 2, fill: "none" })
    : svg("circle", { cx: at, cy: middle, r: 4.5, stroke: colour, "stroke-width": 1.6,
      fill: dot.reached < 1 ? "var(--card)" : colour, "fill-opacity": dot.reached < 1 ? 1 : 0.55 });
  const note = [`${number(dot.value)} times as fast`,
    state.dots ? (dot.diverged ? "diverged" : missed ? "missed the loss" : "reached the loss")
      : `reached in ${percent(dot.reached)}`].join(", ");
  // A wider area to point at than the dot itself.
  const target = svg("g", { class: "dot" },
    svg("circle", { cx: at, cy: middle, r: 9, fill: "transparent" }), mark);
  return noted(target, el("b", null, dot.label), el("span", null, note));
}

views.push(() => {
  const host = byId("dots");
  const lines = [...data.controllers].sort(
    (a, b) => (speedup(b).geomean ?? -1) - (speedup(a).geomean ?? -1));
  const rows = lines.map((line) => ({ line, dots: dotsOf(line).filter(({ value }) => value > 0) }));
  const narrow = host.clientWidth < NARROW;
  const tall = narrow ? 42 : 30;
  const values = rows.flatMap(({ dots }) => dots.map(({ value }) => value));
  const longest = Math.max(...lines.map(({ name }) => name.length));
  const left = narrow ? 12 : Math.min(230, 24 + 7.4 * longest);
  const chart = frame(host, {
    label: `Speed-up of every controller ${state.dots ? "on " + state.dots : "on each task"}, to the `
      + `final loss of ${referenceLabel(state.reference)}; the numbers are in the table below.`,
    x: { domain: extent([...values, 1], true, 0.06), log: true,
      label: "times as fast (log scale)" },
    height: rows.length * tall + 60, margin: { left, top: 6 },
  });
  const { plot, x, inner } = chart;
  plot.append(svg("line", { class: "one", x1: x(1), x2: x(1), y1: inner.top, y2: inner.bottom }));
  rows.forEach(({ line, dots }, index) => {
    const middle = inner.top + tall * (index + 0.5) + (narrow ? 8 : 0);
    const own = line.name === data.subject;
    const colour = own ? "var(--policy)" : "var(--c5)";
    const { mark } = kindOf(line.name);
    const room = narrow ? 60 : Math.floor((left - 20) / 7.2);
    const shown = line.name.length > room ? line.name.slice(0, room - 1) + "\u2026" : line.name;
    const name = svg("text", { class: own ? "over name subject" : "over name", x: narrow ? inner.left : left - 14,
      y: narrow ? middle - 12 : middle + 4, "text-anchor": narrow ? "start" : "end" }, shown);
    noted(name, el("b", null, line.name), el("span", null, mark || kindOf(line.name).label));
    if (mark && narrow) name.append(svg("tspan", { style: "fill:var(--muted);font-size:11px" },
      "  " + mark));
    plot.append(
      svg("line", { class: "grid", x1: inner.left, x2: inner.right, y1: middle, y2: middle }), name);
    const mean = speedup(line).geomean;
    if (!state.dots && mean > 0) {
      plot.append(svg("line", { x1: x(mean), x2: x(mean), y1: middle - 9, y2: middle + 9,
        stroke: colour, "stroke-width": 2.4 }));
    }
    // The lowest is called by its name, so that nobody has to look for it.
    const worst = dots.reduce((a, b) => (b.value < a.value ? b : a), dots[0]);
    const differ = dots.some(({ value }) => value > worst.value);
    if (differ && !state.dots && !narrow) {
      const at = x(worst.value) - 10;
      const fits = at - inner.left > 6.5 * worst.label.length;
      if (fits) plot.append(svg("text", { class: "over", x: at, y: middle + 4, "text-anchor": "end",
        style: "font-size:11px" }, worst.label));
    }
    for (const dot of dots) plot.append(drawDot(dot, x(dot.value), middle, colour));
  });
  host.replaceChildren(chart.root);
});

views.push(() => {
  const adam = (data.references.find(({ name }) => name === "adam_default") || {}).controller;
  const names = [...new Set([data.subject, data.rival, adam])].filter((name) => controllers.has(name));
  const measures = [
    ["speed-up", (of) => number((of.speedup || {})[state.reference])],
    ["reached", (of) => percent((of.reached || {})[state.reference])],
    ["test loss", (of) => number(of.final_test_loss)],
    ["accuracy", (of) => number((of.test_metrics || {}).accuracy)],
  ];
  byId("task-table").replaceChildren(
    el("thead", null, el("tr", null, el("th", { class: "plain", scope: "col" }, "Task"),
      names.flatMap((name) => measures.map(([label]) =>
        el("th", { class: "plain", scope: "col" }, `${name}: ${label}`))))),
    el("tbody", null, data.tasks.map((task) => el("tr", null,
      el("th", { scope: "row" }, task.name),
      names.flatMap((name) => {
        const of = controllers.get(name).tasks[task.name] || {};
        return measures.map(([, shown]) => el("td", null, shown(of)));
      })))));
});
