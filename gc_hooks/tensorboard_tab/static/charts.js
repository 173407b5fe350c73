// Four charts, drawn as SVG: difference over steps, backprop against measured, error against step size, weights.

import { el, hideTip, showTip, svg } from "./dom.js";
import { differenceText, exponential, figure, indexText, number, plusMinus, relativeError, verdictOf } from "./format.js";
import { colourOf, css } from "./maps.js";

const FLOOR = 1e-17;

/** Return the function that maps a range of numbers to a range of pixels. */
function linear([from, to], [start, end]) {
  const width = to - from || 1;
  return (value) => start + ((value - from) / width) * (end - start);
}

function logarithmic([from, to], pixels) {
  const scale = linear([Math.log10(from), Math.log10(to)], pixels);
  return (value) => scale(Math.log10(Math.min(to, Math.max(from, value))));
}

/** Return about `count` round numbers within a range. */
export function roundTicks(from, to, count = 5) {
  const rough = (to - from) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((k) => k * power).find((k) => k >= rough);
  const ticks = [];
  for (let tick = Math.ceil(from / step) * step; tick <= to + 1e-9 * step; tick += step) ticks.push(Number(tick.toPrecision(12)));
  return ticks;
}

function frame(width, height, label, testid) {
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img", "aria-label": label, "data-testid": testid });
}

function caption(x, y, text, attributes = {}) {
  return svg("text", { x, y, ...attributes }, text);
}

function rule(x1, y1, x2, y2, style) {
  return svg("line", { x1, y1, x2, y2, class: style });
}

function path(points, style) {
  const text = points.map(([x, y], k) => `${k ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
  return svg("path", { d: text, class: style });
}

/** Show lines in the tip while the pointer rests on a node. */
function withTip(node, lines) {
  node.addEventListener("mousemove", (event) => showTip(event, lines));
  node.addEventListener("mouseleave", hideTip);
  return node;
}

/** Draw the difference of every parameter over the steps, on a logarithmic axis with the bands. */
export function historyChart(table, chosen, choose) {
  const [width, height, left, right, top, bottom] = [1100, 260, 56, 150, 10, 34];
  const chart = frame(width, height, "Difference of every parameter over the steps", "history");
  const steps = table.checks.map((check) => check.step);
  const [first, last] = [Math.min(...steps), Math.max(...steps)];
  const x = linear(first === last ? [first - 1, last + 1] : [first, last], [left + 8, width - right - 8]);
  const y = logarithmic([FLOOR, 1], [height - bottom, top]);
  const bands = table.checks[table.checks.length - 1].bands;
  chart.append(...bandShapes(bands, [left, width - right], y));
  for (const tick of [1e-16, 1e-13, 1e-10, 1e-7, 1e-5, 1e-3, 1]) {
    chart.append(rule(left, y(tick), width - right, y(tick), "grid"));
    chart.append(caption(left - 6, y(tick) + 4, tick === 1 ? "1" : exponential(tick, 0), { "text-anchor": "end" }));
  }
  for (const tick of roundTicks(first, last, 8).filter(Number.isInteger)) {
    chart.append(caption(x(tick), height - bottom + 16, String(tick), { "text-anchor": "middle" }));
  }
  chart.append(caption((left + width - right) / 2, height - 3, "step", { "text-anchor": "middle", class: "quiet" }));
  chart.append(rule(x(table.checks[chosen.check].step), top, x(table.checks[chosen.check].step), height - bottom, "cursor"));
  const lines = table.parameters.map((parameter, row) => historyLine(table, row, x, y, chosen, choose));
  lines.sort((a, b) => a.weight - b.weight).forEach((line) => chart.append(line.shape));
  labelled(lines, chart, width - right + 8, [top + 6, height - bottom]);
  return chart;
}

function bandShapes(bands, [from, to], y) {
  const [good, , worry] = bands.map(number);
  const areas = [
    [FLOOR, good, "band good", "good"],
    [good, worry, "band doubtful", "double check"],
    [worry, 1, "band wrong", "worry"],
  ];
  return areas.flatMap(([low, high, style, text]) => [
    svg("rect", { x: from, width: to - from, y: y(high), height: Math.max(0, y(low) - y(high)), class: style }),
    caption(from + 6, y(high) + 13, text, { class: "quiet" }),
  ]);
}

function historyLine(table, row, x, y, chosen, choose) {
  const name = table.parameters[row].name;
  const cells = table.checks.map((check, at) => ({ check, at, cell: check.cells[row] }));
  const known = cells.filter(({ cell }) => cell && Number.isFinite(number(cell.difference)));
  const worst = Math.max(0, ...known.map(({ cell }) => cell.verdict));
  const tone = verdictOf(worst).tone;
  const place = ({ check, cell }) => [x(check.step), y(Math.max(FLOOR, number(cell.difference)))];
  const selected = row === chosen.parameter;
  const dots = known.map((item) => {
    const [cx, cy] = place(item);
    const verdict = verdictOf(item.cell.verdict);
    const style = `dot ${verdict.tone}${item.cell.is_bound ? " bound" : ""}`;
    const dot = svg("circle", { cx, cy, r: selected ? 4 : 2.6, class: style, click: () => choose(row, item.at) });
    return withTip(dot, [name, `step ${item.check.step}: ${verdict.words}`, differenceText(item.cell)]);
  });
  const shape = svg("g", { class: `line ${tone}${selected ? " selected" : ""}` }, path(known.map(place), "stroke"), dots);
  const end = known.length ? place(known[known.length - 1])[1] : null;
  return { name, shape, tone, end, weight: worst + (selected ? 10 : 0), named: selected || worst > 0 };
}

/** Write names beside the ends of the lines that matter, moved apart; no more than there is room for. */
function labelled(lines, chart, x, [top, bottom]) {
  const named = lines.filter((line) => line.named && line.end !== null).sort((a, b) => b.weight - a.weight).slice(0, 14);
  let free = top;
  for (const line of named.sort((a, b) => a.end - b.end)) {
    const y = Math.max(free, line.end + 4);
    if (y > bottom) break;
    const text = line.name.length > 20 ? `${line.name.slice(0, 19)}\u2026` : line.name;
    chart.append(caption(x, y, text, { class: `label ${line.tone}` }));
    free = y + 14;
  }
}

/** Draw backprop's slopes against the measured ones: a right one lies on the diagonal. */
export function scatterChart(picture, shape) {
  const [width, height, left, bottom, top] = [340, 260, 62, 40, 10];
  const chart = frame(width, height, "Backprop's slopes against the measured ones", "scatter");
  const points = [
    ...picture.entries.map(([position, ...slope]) => ({ what: indexText(position, shape), slope })),
    ...picture.directions.map((slope, k) => ({ what: `random direction ${k + 1}`, slope, direction: true })),
  ].map((point) => ({ ...point, backprop: point.slope[0], measured: point.slope[0] - point.slope[1] }));
  const reach = 1.08 * Math.max(1e-300, ...points.flatMap((p) => [Math.abs(p.backprop), Math.abs(p.measured)]));
  const x = linear([-reach, reach], [left, width - 10]);
  const y = linear([-reach, reach], [height - bottom, top]);
  chart.append(rule(x(-reach), y(0), x(reach), y(0), "grid"), rule(x(0), y(-reach), x(0), y(reach), "grid"));
  chart.append(rule(x(-reach), y(-reach), x(reach), y(reach), "diagonal"));
  for (const end of [-reach / 1.08, reach / 1.08]) {
    chart.append(caption(x(end), height - bottom + 15, figure(end, 2), { "text-anchor": "middle" }));
    chart.append(caption(left - 6, y(end) + 4, figure(end, 2), { "text-anchor": "end" }));
  }
  chart.append(caption((left + width) / 2, height - 6, "measured", { "text-anchor": "middle", class: "quiet" }));
  const side = [14, (height - bottom + top) / 2];
  chart.append(caption(...side, "backprop", { "text-anchor": "middle", class: "quiet", transform: `rotate(-90 ${side.join(" ")})` }));
  for (const point of points) chart.append(scatterMark(point, x(point.measured), y(point.backprop)));
  return chart;
}

function scatterMark(point, x, y) {
  const relative = relativeError(point.backprop, point.slope[1]);
  const attributes = { class: "mark", fill: css(colourOf(relative)) };
  const mark = point.direction
    ? svg("rect", { ...attributes, x: x - 4, y: y - 4, width: 8, height: 8, transform: `rotate(45 ${x} ${y})` })
    : svg("circle", { ...attributes, cx: x, cy: y, r: 3.2 });
  return withTip(mark, [
    point.what,
    `backprop ${figure(point.backprop, 6)}`,
    `measured ${figure(point.measured, 6)}${plusMinus(point.slope[2])}`,
  ]);
}

/** Draw the error of central differences against the step, a V, with the chosen step and backprop's distance. */
export function stepChart(curve, tone) {
  const [width, height, left, right, top, bottom] = [440, 260, 52, 12, 10, 40];
  const chart = frame(width, height, "Error of central differences against the step size", "step-curve");
  const [smallest, largest] = [Math.min(...curve.steps), Math.max(...curve.steps)];
  const x = logarithmic([smallest / 2, largest * 2], [left, width - right]);
  const y = logarithmic([FLOOR, 10], [height - bottom, top]);
  for (const tick of [1e-16, 1e-12, 1e-8, 1e-4, 1]) {
    chart.append(rule(left, y(tick), width - right, y(tick), "grid"));
    chart.append(caption(left - 6, y(tick) + 4, tick === 1 ? "1" : exponential(tick, 0), { "text-anchor": "end" }));
  }
  for (const tick of [1e-12, 1e-9, 1e-6, 1e-3]) {
    chart.append(caption(x(tick), height - bottom + 15, exponential(tick, 0), { "text-anchor": "middle" }));
  }
  chart.append(caption((left + width) / 2, height - 6, "step, in units of the parameters' scale", { "text-anchor": "middle", class: "quiet" }));
  const noise = number(curve.noise);
  if (noise > 0) {
    chart.append(path([smallest, largest].map((step) => [x(step), y(noise / step)]), "noise"));
    chart.append(caption(x(smallest) + 4, y(noise / smallest) - 6, "noise floor", { class: "quiet" }));
  }
  chart.append(...levels(curve, tone, y, [left, width - right]), ...chosenStep(curve, x, y));
  const points = curve.steps.map((step, k) => ({ step, error: number(curve.errors[k]) })).filter((p) => Number.isFinite(p.error));
  chart.append(path(points.map((p) => [x(p.step), y(p.error)]), "v-curve"));
  for (const p of points) {
    const dot = svg("circle", { cx: x(p.step), cy: y(p.error), r: 3, class: "v-dot" });
    chart.append(withTip(dot, [`step ${exponential(p.step)}`, `relative error ${exponential(p.error)}`]));
  }
  return chart;
}

function levels(curve, tone, y, [from, to]) {
  const [backprop, error] = [number(curve.backprop), number(curve.error)];
  const right = { "text-anchor": "end" };
  return [
    rule(from, y(backprop), to, y(backprop), `level ${tone}`),
    caption(to - 4, y(backprop) - 5, `backprop is ${exponential(backprop)} away`, { ...right, class: `label ${tone}` }),
    rule(from, y(error), to, y(error), "level quiet"),
    caption(to - 4, y(error) + (error < 1e-15 ? -5 : 13), `error bar ${exponential(error, 0)}`, { ...right, class: "quiet" }),
  ];
}

function chosenStep(curve, x, y) {
  const chosen = number(curve.chosen);
  if (!(chosen > 0)) return [];
  const text = caption(x(chosen) + 5, y(10) + 12, `chosen step ${exponential(chosen)}`, { class: "quiet", "data-testid": "chosen-step" });
  return [rule(x(chosen), y(FLOOR), x(chosen), y(10), "cursor"), text];
}

/** Draw the histogram of the parameter's entries, now and at the first check. */
export function weightsChart(now, first) {
  const [width, height, bottom] = [340, 150, 22];
  const chart = frame(width, height, "Histogram of the parameter's entries", "weights");
  const shown = [now, first].filter((picture) => picture?.weights.length && Number.isFinite(number(picture.low)));
  if (!shown.length) return null;
  const low = Math.min(...shown.map((picture) => number(picture.low)));
  const high = Math.max(...shown.map((picture) => number(picture.high)));
  const x = linear(low === high ? [low - 1, high + 1] : [low, high], [10, width - 10]);
  const densities = shown.map((picture) => density(picture, high - low));
  const y = linear([0, Math.max(...densities.flat().map((bar) => bar.height))], [height - bottom, 8]);
  const base = y(0);
  for (const bar of densities[0]) {
    const wide = Math.max(1, x(bar.to) - x(bar.from) - 1);
    chart.append(svg("rect", { x: x(bar.from), y: y(bar.height), width: wide, height: base - y(bar.height), class: "column" }));
  }
  if (densities[1]) {
    const outline = densities[1].flatMap((bar) => [[x(bar.from), y(bar.height)], [x(bar.to), y(bar.height)]]);
    chart.append(path(outline, "outline"));
  }
  chart.append(rule(10, base, width - 10, base, "grid"));
  for (const [value, anchor] of [[low, "start"], [high, "end"]]) {
    chart.append(caption(x(value), height - 6, figure(value, 3), { "text-anchor": low === high ? "middle" : anchor }));
  }
  return chart;
}

/** Return bars whose area is the fraction of the entries, so that histograms of other ranges compare. */
function density(picture, range) {
  const [low, high] = [number(picture.low), number(picture.high)];
  const total = picture.weights.reduce((sum, count) => sum + count, 0);
  const step = (high - low) / picture.weights.length;
  if (!(step > 0)) {
    const half = (range || 1) / 48;
    return [{ from: low - half, to: low + half, height: 1 / (2 * half) }];
  }
  return picture.weights.map((count, k) => ({ from: low + k * step, to: low + (k + 1) * step, height: count / total / step }));
}

/** Return a chart with its title and notes. */
export function figureOf(title, chart, ...notes) {
  return el("figure", {}, el("figcaption", {}, title), chart, notes);
}
