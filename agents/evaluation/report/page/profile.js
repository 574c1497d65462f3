// Performance profiles of the controllers shown; of those that know or pay more there are none.
function profileOf(name) {
  const found = (controllers.get(name).profile || {})[state.reference];
  return found && found.ratio.length ? found : null;
}
views.push(() => {
  const series = state.shown
    .map((name) => ({ name, of: profileOf(name) }))
    .filter(({ of }) => of)
    .map(({ name, of }) => ({ name, x: of.ratio, y: of.share }));
  const ratios = series.flatMap((line) => line.x).filter((value) => value > 0);
  lineChart(byId("profile"), series, {
    stepped: true,
    label: `Performance profiles of ${state.shown.join(", ")}. Arrow keys tell the values.`,
    x: { domain: extent([...ratios, 1], true, 0), log: true,
      label: "times the samples of the fastest (log scale)", format: (value) => `${brief(value)}\u00d7` },
    y: { domain: [0, 1.02], format: (value) => `${Math.round(100 * value)} %` },
    tell: percent,
    at: (ratio) => `within ${number(ratio)} times`,
  });
});
