// Scales, axes, and a chart of lines with bands that tells its values by pointer and by arrow keys.
const NARROW = 560;

function scale(domain, range, log) {
  const map = log ? Math.log : (value) => value;
  const [low, high] = domain.map(map);
  const span = high - low || 1;
  const at = (value) => range[0] + ((map(value) - low) / span) * (range[1] - range[0]);
  at.invert = (pixel) => {
    const value = low + ((pixel - range[0]) / (range[1] - range[0])) * span;
    return log ? Math.exp(value) : value;
  };
  at.ticks = (count) => (log ? logTicks(domain, count) : linearTicks(domain, count));
  return at;
}
function linearTicks([low, high], count) {
  const raw = (high - low || 1) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= raw * 0.999);
  const ticks = [];
  for (let index = Math.ceil(low / step - 1e-9); index * step <= high + step * 1e-9; index++) {
    ticks.push(Number((index * step).toPrecision(10)));
  }
  return ticks;
}
function logTicks([low, high], count) {
  const found = (factors, every = 1) => {
    const ticks = [];
    const first = Math.floor(Math.log10(low));
    for (let power = first; power <= Math.ceil(Math.log10(high)); power++) {
      if ((power - first) % every) continue;
      for (const factor of factors) {
        const tick = Number((factor * 10 ** power).toPrecision(6));
        if (tick >= low * 0.9999 && tick <= high * 1.0001) ticks.push(tick);
      }
    }
    return ticks;
  };
  if (found([1, 2, 5]).length < 3) return linearTicks([low, high], Math.min(count, 4));
  const choices = [found([1, 2, 5]), found([1, 3]), found([1]), found([1], 2), found([1], 3)];
  return choices.find((ticks) => ticks.length <= count + 1) || choices[4];
}

function extent(values, log, room = 0.04) {
  const usable = values.filter((value) => known(value) && (!log || value > 0));
  if (!usable.length) return log ? [0.1, 10] : [0, 1];
  let low = usable[0];
  let high = usable[0];
  for (const value of usable) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  if (log) {
    if (low === high) return [low / 2, high * 2];
    const factor = (high / low) ** room;
    return [low / factor, high * factor];
  }
  const gap = (high - low || Math.abs(high) || 1) * room;
  return [low - gap, high + gap];
}

// Axes around an area of their own; `plot` is where the marks go.
function frame(host, options) {
  const width = Math.max(260, host.clientWidth - 18);
  const narrow = width < NARROW;
  const margin = { top: 12, right: 14, bottom: 40, left: narrow ? 48 : 62, ...options.margin };
  const height = options.height || (narrow ? 290 : 370);
  const inner = { left: margin.left, right: width - margin.right, top: margin.top,
    bottom: height - margin.bottom };
  const x = scale(options.x.domain, [inner.left, inner.right], options.x.log);
  const y = options.y && scale(options.y.domain, [inner.bottom, inner.top], options.y.log);
  const root = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": options.label });
  for (const tick of x.ticks(narrow ? 4 : 8)) {
    const at = x(tick);
    root.append(
      svg("line", { class: "grid", x1: at, x2: at, y1: inner.top, y2: inner.bottom }),
      svg("text", { x: at, y: inner.bottom + 16, "text-anchor": "middle" },
        (options.x.format || brief)(tick)));
  }
  for (const tick of y ? options.y.ticks || y.ticks(5) : []) {
    const at = y(tick);
    root.append(
      svg("line", { class: "grid", x1: inner.left, x2: inner.right, y1: at, y2: at }),
      svg("text", { x: inner.left - 8, y: at + 4, "text-anchor": "end" },
        (options.y.format || brief)(tick)));
  }
  root.append(
    svg("line", { class: "axis", x1: inner.left, x2: inner.right, y1: inner.bottom,
      y2: inner.bottom }),
    svg("text", { x: (inner.left + inner.right) / 2, y: height - 5, "text-anchor": "middle" },
      options.x.label || ""));
  const plot = svg("g");
  root.append(plot);
  return { root, plot, x, y, inner, narrow, width, height };
}

// Points as a path that stops where there is no number.
function pathOf(xs, ys, x, y, stepped) {
  let path = "";
  let pen = false;
  for (let index = 0; index < xs.length; index++) {
    const value = ys[index];
    const [px, py] = [x(xs[index]), known(value) ? y(value) : NaN];
    if (!Number.isFinite(py)) {
      pen = false;
      continue;
    }
    const [sx, sy] = [px.toFixed(1), py.toFixed(1)];
    if (!pen) path += `M${sx} ${sy}`;
    else path += stepped ? `H${sx}V${sy}` : `L${sx} ${sy}`;
    pen = true;
  }
  return path;
}
function bandOf(xs, low, high, x, y) {
  let path = "";
  let run = [];
  const close = () => {
    if (run.length > 1) {
      const down = run.map((i) => `${x(xs[i]).toFixed(1)} ${y(low[i]).toFixed(1)}`);
      const up = run.map((i) => `${x(xs[i]).toFixed(1)} ${y(high[i]).toFixed(1)}`).reverse();
      path += `M${down.join("L")}L${up.join("L")}Z`;
    }
    run = [];
  };
  const fits = (value) => known(value) && Number.isFinite(y(value));
  xs.forEach((_, i) => (fits(low[i]) && fits(high[i]) ? run.push(i) : close()));
  close();
  return path;
}

// series: {name, x, y, low, high, thin}; options: as for frame, with stepped and tell(index).
function lineChart(host, series, options) {
  const chart = frame(host, options);
  const { plot, x, y, inner } = chart;
  for (const line of series) {
    if (line.low) {
      plot.append(svg("path", { d: bandOf(line.x, line.low, line.high, x, y),
        fill: look(line.name).stroke, "fill-opacity": 0.13, class: "band" }));
    }
  }
  const front = [...series].sort((a, b) => (a.name === data.subject) - (b.name === data.subject));
  for (const line of front) {
    const style = look(line.name);
    plot.append(svg("path", { d: pathOf(line.x, line.y, x, y, options.stepped), fill: "none",
      stroke: style.stroke, "stroke-width": line.thin ? 0.9 : style.width,
      "stroke-opacity": line.thin ? 0.45 : 1, "stroke-dasharray": style.dash,
      "stroke-linejoin": "round", class: "line", "data-name": line.name }));
  }
  if (options.rule && known(options.rule.at)) {
    const at = y(options.rule.at);
    if (at >= inner.top && at <= inner.bottom) {
      plot.append(
        svg("line", { class: "one", x1: inner.left, x2: inner.right, y1: at, y2: at }),
        svg("text", { class: "over", x: inner.right - 4, "text-anchor": "end",
          y: at + 18 < inner.bottom ? at + 15 : at - 6 },
          options.rule.label));
    }
  }
  crosshair(chart, series, options);
  host.replaceChildren(chart.root);
}

function crosshair(chart, series, options) {
  const { root, x, inner } = chart;
  const told = series.filter((line) => !line.thin);
  if (!told.length) return;
  const xs = [...new Set(told.flatMap((line) => line.x))].sort((a, b) => a - b);
  const mark = svg("line", { class: "axis", y1: inner.top, y2: inner.bottom, visibility: "hidden" });
  root.append(mark);
  root.setAttribute("tabindex", "0");
  let at = -1;
  const point = (index, clientX, clientY) => {
    at = Math.max(0, Math.min(xs.length - 1, index));
    const px = x(xs[at]);
    for (const end of ["x1", "x2"]) mark.setAttribute(end, px);
    mark.setAttribute("visibility", "visible");
    const box = root.getBoundingClientRect();
    const rows = told.map((line) => {
      // The last point at or before: curves may have other points than their neighbours.
      let i = -1;
      while (i + 1 < line.x.length && line.x[i + 1] <= xs[at]) i++;
      const band = line.low && i >= 0 ? interval(line.low[i], line.high[i]) : "";
      const name = el("td", null, line.name);
      name.style.color = look(line.name).stroke;
      return { value: i < 0 ? null : line.y[i],
        row: el("tr", null, name, el("td", null, i < 0 ? "-" : options.tell(line.y[i])),
          el("td", null, band)) };
    });
    showTip(clientX ?? box.left + px, clientY ?? box.top + inner.top,
      el("b", null, options.at(xs[at])), el("table", null, rows.map((row) => row.row)));
  };
  const hide = () => {
    mark.setAttribute("visibility", "hidden");
    hideTip();
  };
  const follow = (event) => {
    const wanted = x.invert(event.clientX - root.getBoundingClientRect().left);
    let best = 0;
    xs.forEach((value, index) => {
      if (Math.abs(x(value) - x(wanted)) < Math.abs(x(xs[best]) - x(wanted))) best = index;
    });
    point(best, event.clientX, event.clientY);
  };
  root.addEventListener("pointermove", follow);
  root.addEventListener("pointerdown", follow);
  root.addEventListener("pointerleave", hide);
  root.addEventListener("blur", hide);
  root.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Escape") hide();
    if (!step) return;
    event.preventDefault();
    point(at < 0 ? (step > 0 ? 0 : xs.length - 1) : at + step);
  });
}

// A speed-up as a stroke on the bar of its interval.
function intervalMark({ geomean, ci_low: low, ci_high: high }, x, middle, tall, colour) {
  const mark = svg("g");
  if (known(low) && known(high)) {
    mark.append(svg("rect", { x: x(low), width: Math.max(1, x(high) - x(low)), y: middle - tall / 3,
      height: (2 * tall) / 3, rx: 1.5, fill: colour, "fill-opacity": 0.38 }));
  }
  if (known(geomean)) {
    mark.append(svg("line", { x1: x(geomean), x2: x(geomean), y1: middle - tall / 2,
      y2: middle + tall / 2, stroke: colour, "stroke-width": 2.6 }));
  }
  return mark;
}
