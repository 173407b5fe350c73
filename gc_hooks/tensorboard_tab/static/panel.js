// One run: its verdict, the slider over its checks, the table, the chosen parameter, and the chart over the steps.

import { figureOf, historyChart } from "./charts.js";
import { loadCheck, loadChecks, loadMarkdown } from "./data.js";
import { parameterDetail } from "./detail.js";
import { el, hideTip } from "./dom.js";
import { verdictOf } from "./format.js";
import { copyText } from "./host.js";
import { CheckTable, rowOrder } from "./table.js";

const MOST_SENTENCES = 3;

export class RunPanel {
  constructor(options) {
    this.options = options;
    this.chosen = { parameter: 0, check: 0 };
    this.table = null;
    this.grid = new CheckTable((row, check) => this.choose(row, check));
    this.slider = el("input", { type: "range", min: 0, max: 0, step: 1, "aria-label": "check", "data-testid": "slider", input: () => this.choose(this.chosen.parameter, Number(this.slider.value)) });
    this.place = el("output", { "data-testid": "place" });
    this.copy = el("button", { type: "button", "data-testid": "copy", click: () => this.#copy() }, "Copy as markdown");
    this.parts = { head: el("div", { "aria-live": "polite" }), detail: el("div", { class: "detail-box" }), history: el("div"), remarks: el("div"), troubles: el("div") };
    this.node = el(
      "article",
      { class: "panel", "data-testid": "panel" },
      this.parts.troubles,
      this.parts.head,
      el("div", { class: "slider" }, el("span", { class: "quiet" }, "check"), this.slider, this.place, this.copy),
      el("div", { class: "columns" }, el("div", { class: "overview" }, this.grid.node, this.parts.history), this.parts.detail),
      this.parts.remarks,
    );
  }

  /** Show a run: the check that is shown already, or the one at the step of another panel, or the one with this key. */
  async open(run, key, step = null) {
    const table = await loadChecks(run);
    const newRun = this.run !== run;
    const before = newRun ? null : this.table?.checks[this.chosen.check]?.key;
    const alongside = newRun ? table.checks.find((check) => check.step === step)?.key : null;
    const wanted = table.checks.findIndex((check) => check.key === (before ?? alongside ?? key));
    const name = this.table?.parameters[this.chosen.parameter]?.name;
    this.run = run;
    this.table = table;
    this.#showTroubles();
    if (!table.checks.length) return;
    this.chosen.check = wanted >= 0 ? wanted : table.checks.length - 1;
    const same = table.parameters.findIndex((parameter) => parameter.name === name);
    this.chosen.parameter = newRun || same < 0 ? rowOrder(table, this.chosen.check, true)[0] ?? 0 : same;
    this.slider.max = table.checks.length - 1;
    this.#drawTable();
    await this.#drawCheck();
  }

  /** The step of the check that is shown. */
  get step() {
    return this.table?.checks[this.chosen.check]?.step;
  }

  /** Draw in other colours, or in another order. */
  async redraw() {
    if (!this.table?.checks.length) return;
    this.#drawTable();
    await this.#drawCheck();
  }

  async choose(parameter, check) {
    if (!this.table?.checks[check]) return; // the page is still loading
    this.chosen = { parameter, check };
    this.grid.mark(this.chosen, this.grid.node.contains(document.activeElement));
    await this.#drawCheck();
  }

  #drawTable() {
    this.grid.show(this.table, rowOrder(this.table, this.chosen.check, this.options.worstFirst), this.chosen);
  }

  async #drawCheck() {
    hideTip();
    const { check, parameter } = this.chosen;
    const shown = this.table.checks[check];
    this.slider.value = check;
    this.slider.setAttribute("aria-valuetext", `step ${shown.step}, ${verdictOf(shown.verdict).words}`);
    this.place.textContent = `${check + 1} of ${this.table.checks.length}, step ${shown.step}`;
    this.#drawHistory();
    const [report, first] = await Promise.all([loadCheck(this.run, shown.key), loadCheck(this.run, this.table.checks[0].key)]);
    if (shown !== this.table.checks[this.chosen.check]) return; // another one was chosen meanwhile
    const name = this.table.parameters[parameter]?.name;
    this.parts.head.replaceChildren(...verdictLine(report));
    this.parts.detail.replaceChildren(name === undefined ? "" : parameterDetail(report, first, name));
    this.parts.remarks.replaceChildren(remarks(report));
  }

  #drawHistory() {
    const chart = historyChart(this.table, this.chosen, (row, check) => this.choose(row, check));
    this.parts.history.replaceChildren(figureOf("Difference over the steps, every parameter", chart));
  }

  #showTroubles() {
    this.parts.troubles.replaceChildren(...this.table.troubles.map((text) => el("p", { class: "trouble", role: "alert" }, text)));
  }

  async #copy() {
    if (!this.table?.checks.length) return;
    const text = await loadMarkdown(this.run, this.table.checks[this.chosen.check].key);
    await copyText(text);
    this.copy.textContent = "Copied";
    setTimeout(() => (this.copy.textContent = "Copy as markdown"), 1500);
  }
}

function verdictLine(report) {
  const verdict = verdictOf(report.verdict);
  const chip = el("span", { class: `chip big ${verdict.tone}`, "data-testid": "verdict" }, `${verdict.symbol} ${verdict.words}`);
  const found = report.diagnoses.slice(0, MOST_SENTENCES).map((d) => el("p", {}, el("code", {}, d.code), " ", d.message));
  const said = found.length ? found : el("p", {}, report.summary);
  return [el("div", { class: "verdict-line" }, chip, el("span", {}, report.facts.join(" \u00b7 "))), el("div", { class: "diagnosis", "data-testid": "diagnosis" }, said)];
}

function remarks(report) {
  const sentences = report.sentences.map((sentence) => el("li", {}, sentence));
  return el("details", { class: "remarks", "data-testid": "remarks", open: report.diagnoses.length > 1 }, el("summary", {}, "What was asked and noticed"), el("ul", {}, sentences));
}
