// Tiles: the subject against each reference, with the interval on a scale that all share.
views.push(() => {
  const own = controllers.get(data.subject).speedup || {};
  const found = data.references.filter(
    (reference) => reference.controller !== data.subject && known((own[reference.name] || {}).geomean));
  const values = found.flatMap(({ name }) => [own[name].ci_low, own[name].ci_high, own[name].geomean, 1]);
  const domain = extent(values, true, 0.08);
  byId("glance").replaceChildren(...found.map(({ name, label }) => tile(label, own[name], domain)));
});

function tile(label, line, domain) {
  const { geomean, ci_low: low, ci_high: high } = line;
  const [word, style] = !known(low) || !known(high) ? ["", "even"]
    // Where many runs miss, the speed-up hangs on what a miss counts as.
    : line.reached < data.decisive ? ["no verdict", "even"]
    : low > 1 ? ["faster", "faster"]
      : high < 1 ? ["slower", "slower"] : ["no clear difference", "even"];
  const picture = svg("svg", { viewBox: "0 0 200 34", "aria-hidden": "true" });
  const x = scale(domain, [6, 194], true);
  picture.append(
    svg("line", { class: "axis", x1: 6, x2: 194, y1: 14, y2: 14 }),
    svg("line", { class: "one", x1: x(1), x2: x(1), y1: 3, y2: 22 }),
    svg("text", { x: x(1), y: 33, "text-anchor": "middle", style: "font-size:10px" }, "1"));
  picture.append(intervalMark(line, x, 14, 12, "var(--policy)"));
  return el("div", { class: "tile" },
    el("h3", null, "Against " + label),
    el("p", { class: "big" }, number(geomean) + "\u00d7", el("small", { class: style }, word)),
    picture,
    el("p", null, interval(low, high) + ", reached in " + percent(line.reached)));
}
