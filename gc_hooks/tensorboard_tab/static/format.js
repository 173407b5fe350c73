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

/** JSON has no word for NaN and infinity: they come as text. */
export function number(value) {
  if (typeof value === "number") return value;
  return value === "inf" ? Infinity : value === "-inf" ? -Infinity : NaN;
}

/** A few significant digits. */
export function figure(value, digits = 3) {
  const x = number(value);
  if (Number.isNaN(x)) return "\u2013";
  if (!Number.isFinite(x)) return x > 0 ? "\u221e" : "\u2212\u221e";
  if (x === 0) return "0";
  const size = Math.abs(x);
  return size >= 1e-3 && size < 1e5 ? String(Number(x.toPrecision(digits))) : exponential(x, digits - 1);
}

/** As 3.1e-11. */
export function exponential(value, digits = 1) {
  const x = number(value);
  if (!Number.isFinite(x)) return figure(x);
  return x === 0 ? "0" : x.toExponential(digits).replace("e+", "e");
}

/** As ± 1e-13, or nothing. */
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

export function percent(value) {
  const x = number(value);
  return Number.isFinite(x) ? `${Number((100 * x).toPrecision(2))} %` : "\u2013";
}

/** "1 check", "2 checks". */
export function plural(count, word, words = `${word}s`) {
  return `${count} ${count === 1 ? word : words}`;
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

/** Whether the difference of a parameter is no more than an upper bound. */
export function isBound(parameter) {
  return parameter.basis === "bounded" && !number(parameter.at_least ?? 0);
}

/** The difference in a cell of the table: [verdict, difference, error, whether it is an upper bound]. */
export function differenceText([, difference, error, bound]) {
  return `difference ${differenceFigures(difference, error, bound)}`;
}

/** As 2.0e-10 ± 1e-13, or as at most 1.3e-12. */
export function differenceFigures(difference, error, bound) {
  return bound ? `at most ${exponential(number(difference) + number(error))}` : `${exponential(difference)}${plusMinus(error)}`;
}
