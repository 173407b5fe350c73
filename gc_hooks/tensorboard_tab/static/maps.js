// The heat map: which entries of a parameter are wrong, and by how much.

import { el, hideTip, showTip } from "./dom.js";
import { exponential, figure, indexText, plusMinus, relativeError, sizeOf } from "./format.js";

const SIDE = 64;
const MOST_WIDTH = 560;
const MOST_HEIGHT = 360;

/** log10 of the relative error -> red, green, blue: pale up to the band of good, bright from there on. */
const RAMP = [
  [-16, [205, 232, 224]],
  [-9, [150, 205, 190]],
  [-7, [104, 171, 160]],
  [-5, [240, 196, 92]],
  [-3, [232, 121, 62]],
  [-1, [196, 42, 62]],
  [0, [112, 14, 58]],
];

export function colourOf(error) {
  const x = Math.min(0, Math.max(-16, Math.log10(Math.max(error, 1e-17))));
  const above = RAMP.findIndex(([place]) => place >= x);
  if (above <= 0) return RAMP[0][1];
  const [[a, from], [b, to]] = [RAMP[above - 1], RAMP[above]];
  return from.map((value, k) => Math.round(value + ((to[k] - value) * (x - a)) / (b - a)));
}

export function css([red, green, blue]) {
  return `rgb(${red}, ${green}, ${blue})`;
}

/** Return the shape of a parameter as a matrix: its first axis, and all others in one; a vector is a row. */
function matrixShape(shape) {
  const rows = shape.length > 1 ? shape[0] : 1;
  return [rows, rows ? sizeOf(shape) / rows : 0];
}

/** Return the measured entry with the largest error in each cell of a grid of at most 64 x 64. */
export function pooled(entries, shape) {
  const [rows, columns] = matrixShape(shape);
  const [high, wide] = [Math.min(rows, SIDE), Math.min(columns, SIDE * (rows === 1 ? 2 : 1))];
  const cells = new Map();
  for (const [position, backprop, away, error] of entries) {
    const row = Math.floor((Math.floor(position / columns) * high) / rows);
    const column = Math.floor(((position % columns) * wide) / columns);
    const entry = { position, backprop, away, error, relative: relativeError(backprop, away) };
    const before = cells.get(row * wide + column);
    if (!before || entry.relative > before.relative) cells.set(row * wide + column, entry);
  }
  return { rows: high, columns: wide, cells, complete: high === rows && wide === columns };
}

/** Return the canvas; hovering over a cell, or the arrow keys, show the figures of its entry. */
export function heatMap(entries, shape) {
  const grid = pooled(entries, shape);
  const side = Math.max(3, Math.floor(Math.min(MOST_WIDTH / grid.columns, MOST_HEIGHT / grid.rows, 36)));
  const canvas = el("canvas", {
    class: "heat",
    width: side * grid.columns,
    height: side * grid.rows,
    tabindex: 0,
    role: "img",
    "data-testid": "heat-map",
    "data-cells": grid.cells.size,
    "aria-label": `Heat map of ${grid.cells.size} measured entries; arrow keys move from one to the next`,
  });
  paint(canvas, grid, side, null);
  addTips(canvas, grid, side, shape);
  return canvas;
}

function paint(canvas, grid, side, chosen) {
  const context = canvas.getContext("2d");
  const styles = getComputedStyle(document.documentElement);
  const gap = side > 5 ? 1 : 0;
  context.fillStyle = styles.getPropertyValue("--unmeasured");
  context.fillRect(0, 0, canvas.width, canvas.height);
  for (const [place, entry] of grid.cells) {
    const [x, y] = [(place % grid.columns) * side, Math.floor(place / grid.columns) * side];
    context.fillStyle = css(colourOf(entry.relative));
    context.fillRect(x, y, side - gap, side - gap);
    if (place !== chosen) continue;
    context.strokeStyle = styles.getPropertyValue("--text");
    context.lineWidth = 2;
    context.strokeRect(x + 1, y + 1, side - gap - 2, side - gap - 2);
  }
}

function addTips(canvas, grid, side, shape) {
  const places = [...grid.cells.keys()].sort((a, b) => a - b);
  let chosen = null;
  const show = (place, event) => {
    chosen = place;
    paint(canvas, grid, side, place);
    const entry = grid.cells.get(place);
    showTip(event, entry ? describe(entry, shape, grid.complete) : ["not measured"]);
  };
  canvas.addEventListener("mousemove", (event) => {
    const scale = canvas.width / canvas.getBoundingClientRect().width;
    const column = Math.min(grid.columns - 1, Math.floor((event.offsetX * scale) / side));
    const row = Math.min(grid.rows - 1, Math.floor((event.offsetY * scale) / side));
    show(row * grid.columns + column, event);
  });
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!move || !places.length) return;
    event.preventDefault();
    const at = Math.min(places.length - 1, Math.max(0, places.indexOf(chosen) + move));
    const box = canvas.getBoundingClientRect();
    show(places[at], { clientX: box.left, clientY: box.bottom });
  });
  const leave = () => {
    chosen = null;
    paint(canvas, grid, side, null);
    hideTip();
  };
  canvas.addEventListener("mouseleave", leave);
  canvas.addEventListener("blur", leave);
}

function describe(entry, shape, complete) {
  return [
    indexText(entry.position, shape) + (complete ? "" : ", the worst of its cell"),
    `backprop ${figure(entry.backprop, 6)}`,
    `measured ${figure(entry.backprop - entry.away, 6)}${plusMinus(entry.error)}`,
    `relative error ${exponential(entry.relative)}`,
  ];
}

/** Return the scale of the colours. */
export function legend() {
  const stops = RAMP.map(([place, colour]) => `${css(colour)} ${((place + 16) / 16) * 100}%`);
  const bar = el("div", { class: "ramp" });
  bar.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
  const ticks = [-16, -12, -7, -5, -3, 0].map((place) => {
    const tick = el("span", {}, place ? `1e${place}` : "1");
    tick.style.left = `${((place + 16) / 16) * 100}%`;
    return tick;
  });
  return el("div", { class: "legend" }, bar, el("div", { class: "ticks" }, ticks));
}
