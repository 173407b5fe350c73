// Everything about one parameter at one check.

import { figureOf, scatterChart, stepChart, weightsChart } from "./charts.js";
import { el } from "./dom.js";
import { figure, number, plusMinus, shapeText, sizeOf, verdictOf } from "./format.js";
import { heatMap, legend } from "./maps.js";

/** The page of one parameter. */
export function parameterDetail(report, firstReport, name) {
  const parameter = owned(report.parameters, name);
  if (!parameter) return el("p", { class: "quiet" }, `This check has no parameter ${name}.`);
  const picture = owned(report.pictures ?? {}, name);
  const tone = verdictOf(parameter.verdict).tone;
  return el(
    "section",
    { class: "detail", "data-testid": "detail" },
    heading(parameter),
    facts(parameter),
    findings(report, name),
    el("div", { class: "figures" }, figures(report, firstReport, parameter, picture, tone), worstEntries(parameter)),
  );
}

/** Look up a parameter, which may be called __proto__. */
function owned(record, name) {
  return Object.hasOwn(record, name) ? record[name] : undefined;
}

function heading(parameter) {
  const verdict = verdictOf(parameter.verdict);
  return el(
    "h2",
    {},
    el("span", { class: `chip ${verdict.tone}` }, `${verdict.symbol} ${verdict.words}`),
    el("span", { class: "parameter-name", "data-testid": "parameter" }, parameter.name),
    el("small", {}, ` ${shapeText(parameter.shape)}`),
  );
}

function facts(parameter) {
  return el("dl", {}, parameter.facts.map(([term, text]) => [el("dt", {}, term), el("dd", {}, text)]));
}

/** The diagnoses of this parameter, and the repair that was tried. */
function findings(report, name) {
  const elsewhere = (diagnosis) => !diagnosis.parameters.some((other) => Object.hasOwn(report.parameters, other));
  const about = report.diagnoses.filter((diagnosis) => diagnosis.parameters.includes(name) || elsewhere(diagnosis));
  return about.map((diagnosis) =>
    el(
      "div",
      { class: "finding" },
      el("p", {}, el("code", {}, diagnosis.code), " ", diagnosis.message),
      diagnosis.evidence && el("p", { class: "evidence" }, diagnosis.repair ? "Tried: " : "", diagnosis.evidence),
      diagnosis.advice && el("p", { class: "quiet" }, diagnosis.advice),
    ),
  );
}

function figures(report, firstReport, parameter, picture, tone) {
  const made = [];
  if (picture?.entries.length) {
    const missing = sizeOf(parameter.shape) - picture.entries.length;
    const note = missing > 0 ? el("p", { class: "quiet" }, `${picture.entries.length} entries measured; grey: not measured.`) : null;
    made.push(figureOf("Error of each measured entry", heatMap(picture.entries, parameter.shape), legend(), note));
  } else {
    made.push(figureOf("Error of each measured entry", unmeasured(parameter)));
  }
  if (picture && (picture.entries.length || picture.directions.length)) {
    const kinds = [picture.entries.length && "dots are entries", picture.directions.length && "diamonds are random directions"];
    const note = el("p", { class: "quiet" }, `On the diagonal is right; ${kinds.filter(Boolean).join(", ")}.`);
    made.push(figureOf("Backprop against measured", scatterChart(picture, parameter.shape), note));
  }
  const curve = picture?.curve ?? report.curve;
  if (curve) made.push(figureOf(curveTitle(curve), stepChart(curve, curve.along ? tone : verdictOf(report.verdict).tone), curveNote(curve)));
  const first = firstReport === report ? null : owned(firstReport?.pictures ?? {}, parameter.name);
  const weights = picture && weightsChart(picture, first);
  if (weights) made.push(figureOf(`Its entries${first ? ", and at the first check (outline)" : ""}`, weights));
  return made;
}

function curveTitle(curve) {
  return `Error against step size, along a direction ${curve.along ? "in this parameter" : "through all parameters"}`;
}

function curveNote(curve) {
  const how = number(curve.chosen) > 0 ? "" : "Measured by complex step, which has no step to choose. ";
  return el("p", { class: "quiet" }, `${how}A right gradient lies below the V; the distance of a wrong one stays, whatever the step.`);
}

const WITHOUT_ENTRIES = {
  bounded: "A periodic check looks along a direction through all parameters at once; it measures entries only on suspicion.",
  estimated: "Found right along random directions, so that no entry had to be measured.",
};

function unmeasured(parameter) {
  const text = WITHOUT_ENTRIES[parameter.basis] ?? "The log has no measured entries of this check.";
  return el("p", { class: "placeholder", "data-testid": "no-heat-map" }, `${text} For all entries: check_gradients(..., probes=entries).`);
}

function worstEntries(parameter) {
  if (!parameter.worst.length) return null;
  const rows = parameter.worst.map((entry) =>
    el("tr", {}, [`[${entry.index.join(", ")}]`, figure(entry.backprop, 6), `${figure(entry.measured, 6)}${plusMinus(entry.error)}`].map((text) => el("td", {}, text))),
  );
  const head = el("tr", {}, ["entry", "backprop", "measured"].map((text) => el("th", { scope: "col" }, text)));
  const table = el("table", { class: "worst", "data-testid": "worst" }, el("thead", {}, head), el("tbody", {}, rows));
  return figureOf("Entries that differ most", table);
}
