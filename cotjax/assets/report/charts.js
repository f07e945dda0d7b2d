"use strict";
// Charts, drawn by Vega-Lite when they come into view; their colours are the page's variables.

const MOST_COLORS = 6;
const several = DATA.runs.length > 1;
const colorOf = (run) => (several ? `var(--c${run % MOST_COLORS})` : "var(--accent)");
const names = DATA.runs.map((run) => run.name);

const CONFIG = {
  background: null, padding: { left: 2, right: 6, top: 6, bottom: 2 },
  font: "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif",
  view: { stroke: null },
  axis: {
    labelColor: "var(--muted)", titleColor: "var(--muted)", titleFontWeight: 400, titleFontSize: 11.5,
    labelFontSize: 11.5, gridColor: "var(--line)", gridOpacity: 0.6, domain: false, ticks: false, labelPadding: 6,
    titlePadding: 4,
  },
  axisX: { grid: false, domain: true, domainColor: "var(--line)", tickCount: 5, titleAnchor: "end", format: "~s", labelOverlap: true },
  axisY: { tickCount: 4 },
  legend: { labelColor: "var(--ink)", labelFontSize: 12, title: null, orient: "top", symbolType: "square", labelLimit: 140, columns: 3 },
  text: { fill: "var(--ink)" },
};

// A number as people write it, with the digits that tell ticks apart: SI prefixes for thousands
// alone, powers for what is very small.
function formatOf({ percent, limits }) {
  const most = Math.max(...limits.map(Math.abs));
  const apart = Math.ceil(Math.log10(most / ((limits[1] - limits[0]) / 4))) + 1;
  const digits = Math.min(Math.max(apart, 3), 7);
  if (percent) return `.${digits}~%`;
  if (most >= 10000) return `.${digits}~s`;
  return most >= 10 ? `,.${Math.max(digits, 4)}~r` : most >= 1e-3 ? `.${digits}~r` : ".2~e";
}

const runField = { field: "run", title: "run" };
const color = (extra = {}) => ({
  field: "run", type: "nominal", legend: null,
  scale: { domain: names, range: names.map((_, n) => colorOf(n)) }, ...extra,
});
const x = () => ({ field: "x", type: "quantitative", title: null, scale: { nice: false } });

function curve(chart) {
  const raw = [];
  const mean = [];
  const held = [];
  for (const one of chart.series) {
    const run = names[one.run];
    const own = { run };
    one.steps.forEach((step, n) => raw.push({ ...own, x: step, y: one.raw[n] }));
    one.meanSteps.forEach((step, n) => mean.push({ ...own, x: step, y: one.mean[n] }));
    const [steps, values, ends] = one.held;
    steps.forEach((step, n) => held.push({ ...own, x: step, y: values[n], low: ends[n]?.[0], high: ends[n]?.[1] }));
  }
  const last = Math.max(1, ...[raw, held].flat().map((one) => one.x));
  const y = { field: "y", type: "quantitative", title: null, axis: { labelExpr: `datum.value === 0 ? '0' : format(datum.value, '${formatOf(chart)}')` }, scale: { domain: chart.limits, nice: false, zero: false } };
  const step = { ...x(), scale: { domain: [0, last], nice: false } };
  const shape = several ? color() : { value: "var(--mark)" };
  const tooltip = (rows) => [
    ...(several ? [runField] : []), { field: "x", title: "step", format: "," }, ...rows,
  ];
  const value = (field, title) => ({ field, title, type: "quantitative", format: formatOf(chart) });
  const interval = held.some((one) => one.low != null) ? [value("low", "95% from"), value("high", "to")] : [];
  return {
    height: 150,
    layer: [
      { data: { values: raw }, mark: { type: "line", strokeWidth: 0.8, opacity: 0.5, clip: true },
        encoding: { x: step, y, color: several ? color() : { value: "var(--accent)" } } },
      { data: { values: mean }, mark: { type: "line", strokeWidth: 1.8, clip: true },
        encoding: { x: step, y, color: several ? color() : { value: "var(--accent)" } } },
      ...hover(mean, step, y, tooltip([value("y", "mean")])),
      ...(held.length ? [
        { data: { values: held }, mark: { type: "rule", strokeWidth: 1.4, opacity: 0.65, clip: true }, transform: [{ filter: "isValid(datum.low)" }],
          encoding: { x: step, y: { ...y, field: "low" }, y2: { field: "high" }, color: shape } },
        { data: { values: held }, mark: { type: "line", strokeWidth: 1, opacity: 0.8 }, encoding: { x: step, y, color: shape } },
        { data: { values: held }, mark: { type: "point", filled: true, size: 42, opacity: 1 },
          encoding: { x: step, y, color: shape, tooltip: tooltip([value("y", "held-out"), ...interval]) } },
        ...(mean.length ? [] : hover(held, step, y, tooltip([value("y", "held-out"), ...interval]))),
      ] : []),
    ],
  };
}

// A point that follows the pointer, with its values.
function hover(values, step, y, tooltip) {
  if (!values.length) return [];
  return [{
    data: { values },
    params: [{ name: "near", select: { type: "point", on: "pointerover", nearest: true, clear: "pointerout", encodings: ["x"] } }],
    mark: { type: "point", filled: true, size: 44, clip: true },
    encoding: { x: step, y, color: several ? color() : { value: "var(--accent)" }, tooltip,
      opacity: { condition: { param: "near", empty: false, value: 1 }, value: 0 } },
  }];
}

// Parts of a whole, one above the other; the first is the lightest.
function stack(chart) {
  const values = chart.names.flatMap((name, k) => chart.steps.map((step, n) => ({ name, k, x: step, y: chart.values[k][n] })));
  const shades = chart.names.map((_, k) => (chart.names.length > 1 ? 0.25 + (0.75 * k) / (chart.names.length - 1) : 1).toFixed(2));
  return {
    height: 150, data: { values },
    mark: { type: "area", opacity: 1, fillOpacity: 1, line: { color: "var(--page)", strokeWidth: 1 } },
    encoding: {
      x: x(), y: { field: "y", type: "quantitative", stack: "zero", title: null, axis: { format: "%" }, scale: { domain: [0, 1] } },
      order: { field: "k", type: "quantitative" },
      color: { value: "var(--accent)" },
      opacity: { field: "name", type: "ordinal", sort: null, scale: { domain: chart.names, range: shades.map(Number) }, legend: { symbolFillColor: "var(--accent)", symbolStrokeWidth: 0 } },
      tooltip: [{ field: "name", title: "teacher" }, { field: "x", title: "step", format: "," }, { field: "y", title: "weight", format: ".1%" }],
    },
  };
}

function lines(chart) {
  const values = chart.names.flatMap((name, k) => chart.steps.map((step, n) => ({ name, x: step, y: chart.values[k][n] })));
  return {
    height: 150, data: { values: values.filter((one) => one.y != null) },
    mark: { type: "line", point: { filled: true, size: 42 }, strokeWidth: 1.8 },
    encoding: {
      x: x(), y: { field: "y", type: "quantitative", title: null, axis: { format: "~r" } },
      color: { field: "name", type: "nominal", sort: null, scale: { domain: chart.names, range: chart.names.map((_, n) => `var(--c${n % MOST_COLORS})`) } },
      tooltip: [{ field: "name", title: "part" }, { field: "x", title: "step", format: "," }, { field: "y", title: "mean", format: "+.3f" }],
    },
  };
}

// Accuracy against length: a way from the first evaluation (hollow) to the last (full).
function path(chart) {
  const values = chart.series.flatMap((one) => one.points.map(([label, tokens, accuracy, low, high], n) => ({
    run: names[one.run], label, tokens, accuracy, low, high, n, place: n === 0 && one.points.length > 1 ? "first" : n === one.points.length - 1 ? "last" : "between",
    below: (one.points[n === 0 ? 1 : n - 1]?.[2] ?? 0) > accuracy, // its label, clear of the line
  })));
  const ends = values.flatMap((one) => [one.low ?? one.accuracy, one.high ?? one.accuracy]);
  const lengths = values.map((one) => one.tokens);
  const middle = (Math.min(...lengths) + Math.max(...lengths)) / 2;
  const reach = Math.max(0.08 * (Math.max(...lengths) - Math.min(...lengths)), 1);
  const paint = several ? color() : { value: "var(--accent)" };
  const tokens = { field: "tokens", type: "quantitative", title: "mean length of an answer, tokens", scale: { zero: false, nice: false, domain: [Math.min(...lengths) - reach, Math.max(...lengths) + reach] }, axis: { grid: true, domain: false } };
  const y = { field: "accuracy", type: "quantitative", title: null, axis: { format: "%" }, scale: { zero: false, domain: [Math.max(0, Math.min(...ends) - 0.02), Math.min(1, Math.max(...ends) + 0.02)] } };
  return {
    height: 250, data: { values },
    layer: [
      { transform: [{ filter: "isValid(datum.low)" }], mark: { type: "rule", opacity: 0.35, strokeWidth: 1.2 }, encoding: { x: tokens, y: { ...y, field: "low" }, y2: { field: "high" }, color: paint } },
      { mark: { type: "line", strokeWidth: 1.4, opacity: 0.7 }, encoding: { x: tokens, y, color: paint, order: { field: "n" } } },
      { transform: [{ filter: "datum.place !== 'first'" }], mark: { type: "point", filled: true, opacity: 1 },
        encoding: { x: tokens, y, color: paint, size: { condition: { test: "datum.place === 'last'", value: 130 }, value: 40 }, tooltip: pathTooltip() } },
      { transform: [{ filter: "datum.place === 'first'" }], mark: { type: "point", filled: true, fill: "var(--page)", size: 90, strokeWidth: 2, opacity: 1 },
        encoding: { x: tokens, y, stroke: paint, tooltip: pathTooltip() } },
      ...(several ? [] : [["left", 10, "<="], ["right", -10, ">"]].flatMap(([align, dx, test]) => [true, false].map((below) => ({
        transform: [{ filter: `datum.place !== 'between' && datum.tokens ${test} ${middle} && datum.below === ${below}` }],
        mark: { type: "text", align, dx, dy: below ? 12 : -10, fontSize: 12, fill: "var(--ink)" },
        encoding: { x: tokens, y, text: { field: "label" } },
      })))),
    ],
  };
}

function pathTooltip() {
  return [
    ...(several ? [runField] : []), { field: "label", title: "evaluation" },
    { field: "accuracy", title: "right", format: ".1%" }, { field: "low", title: "95% from", format: ".1%" },
    { field: "high", title: "to", format: ".1%" }, { field: "tokens", title: "tokens", format: ".1f" },
  ];
}

const KINDS = { curve, stack, lines, path };

async function drawChart(element) {
  if (element.dataset.drawn) return;
  element.dataset.drawn = "1";
  const chart = DATA.charts[Number(element.dataset.chart)];
  const spec = {
    $schema: "https://vega.github.io/schema/vega-lite/v6.json", width: "container",
    autosize: { type: "fit-x", contains: "padding" }, config: CONFIG, ...KINDS[chart.kind](chart),
  };
  const inner = make("div", { "aria-hidden": "true" }); // the element around it says what is drawn
  element.append(inner);
  await vegaEmbed(inner, spec, { renderer: "svg", actions: false, tooltip: { theme: "page" } });
}

const places = [...document.querySelectorAll("[data-chart]")];
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) {
      seen.unobserve(entry.target);
      drawChart(entry.target);
    }
  }
}, { rootMargin: "400px" });
places.forEach((place) => seen.observe(place));
addEventListener("beforeprint", () => places.forEach(drawChart));
