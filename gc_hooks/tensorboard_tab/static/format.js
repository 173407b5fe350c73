// Numbers and verdicts as a person reads them.

/** From good to bad; the symbol says it without colour, the class gives the colour. */
export const VERDICTS = [
  { name: "GOOD", words: "good", symbol: "\u2713", tone: "good" },
  { name: "INCONCLUSIVE", words: "inconclusive", symbol: "?", tone: "unclear" },
  { name: "DOUBLE_CHECK", words: "double check", symbol: "!", tone: "doubtful" },
  { name: "WORRY", words: "worry", symbol: "\u2717", tone: "wrong" },
];

const UNKNOWN = { name: "UNKNOWN", words: "not known", symbol: "?", tone: "unclear" };

export function verdictOf(value) {
  if (typeof value === "number") return VERDICTS[value] ?? UNKNOWN;
  return VERDICTS.find((verdict) => verdict.name === value) ?? UNKNOWN;
}

/** Return a number of the JSON, in which NaN and infinity are text. */
export function number(value) {
  if (typeof value === "number") return value;
  return value === "inf" ? Infinity : value === "-inf" ? -Infinity : NaN;
}

/** Write a number with a few significant digits. */
export function figure(value, digits = 3) {
  const x = number(value);
  if (Number.isNaN(x)) return "\u2013";
  if (!Number.isFinite(x)) return x > 0 ? "\u221e" : "\u2212\u221e";
  if (x === 0) return "0";
  const size = Math.abs(x);
  return size >= 1e-3 && size < 1e5 ? String(Number(x.toPrecision(digits))) : exponential(x, digits - 1);
}

/** Write a number as 3.1e-09, with two digits in the exponent as in the server's texts. */
export function exponential(value, digits = 1) {
  const x = number(value);
  if (!Number.isFinite(x)) return figure(x);
  return x === 0 ? "0" : x.toExponential(digits).replace(/e(?<sign>[+-])(?<digit>\d)$/, "e$<sign>0$<digit>");
}

/** Write an error as ± 1e-13, or nothing where it is not known. */
export function plusMinus(value) {
  const x = number(value);
  return Number.isFinite(x) ? ` \u00b1 ${exponential(x, 0)}` : "";
}

/** Number of entries of an array of this shape. */
export function sizeOf(shape) {
  return shape.reduce((product, length) => product * length, 1);
}

export function shapeText(shape) {
  return shape.length ? shape.join("\u00d7") : "number";
}

/** Where an entry is: [3, 7] for position 31 in a shape of 4 x 8. */
export function indexText(position, shape) {
  const index = [];
  let rest = position;
  for (const length of [...shape].reverse()) {
    index.unshift(rest % length);
    rest = Math.floor(rest / length);
  }
  return `[${index.join(", ")}]`;
}

/** |g - n| / (|g| + |n|) of a slope. */
export function relativeError(backprop, away) {
  const size = Math.abs(backprop) + Math.abs(backprop - away);
  return size > 0 ? Math.abs(away) / size : 0;
}

/** The difference in a cell of the table, as the server states it. */
export function differenceText(cell) {
  return `difference ${cell.stated || "\u2013"}`;
}
