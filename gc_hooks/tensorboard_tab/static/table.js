// Parameters x checks: every verdict of a run at a glance, by colour and by sign.

import { el, hideTip, showTip } from "./dom.js";
import { differenceText, exponential, number, shapeText, verdictOf } from "./format.js";

const FEW_CHECKS = 14;

/** The rows in the order of the network, or the worst of a check first and then those that it does not have. */
export function rowOrder(table, check, worstFirst) {
  const rows = table.parameters.map((_, row) => row);
  return worstFirst ? [...new Set([...(table.checks[check]?.worst_first ?? []), ...rows])] : rows;
}

/** The table itself; `choose(parameter, check)` is called for a cell that is clicked or reached by the arrow keys. */
export class CheckTable {
  constructor(choose) {
    this.choose = choose;
    this.node = el("div", { class: "table-box", "data-testid": "table" });
    this.node.addEventListener("click", (event) => this.#pick(event.target.closest("td[data-check]")));
    this.node.addEventListener("keydown", (event) => this.#walk(event));
    this.node.addEventListener("mouseover", (event) => this.#showTip(event));
    this.node.addEventListener("mouseleave", hideTip);
  }

  /** Draw another table, or the same in another order. */
  show(table, order, chosen) {
    this.table = table;
    const focused = this.node.contains(document.activeElement);
    const compact = table.checks.length > FEW_CHECKS;
    const heads = table.checks.map((check, at) =>
      el("th", { scope: "col", "data-check": at, class: verdictOf(check.verdict).tone }, String(check.step)),
    );
    const rows = order.map((row) => this.#row(row, compact));
    const corner = el("th", { scope: "col", class: "name" }, "parameter \\ step");
    this.cells = null;
    const grid = el("table", { role: "grid", class: compact ? "compact" : "" }, el("thead", {}, el("tr", {}, corner, heads)), el("tbody", {}, rows));
    this.node.replaceChildren(grid);
    this.mark(chosen, focused);
  }

  #row(row, compact) {
    const parameter = this.table.parameters[row];
    const name = el("th", { scope: "row", class: "name", title: parameter.name }, parameter.name, el("small", {}, ` ${shapeText(parameter.shape)}`));
    const cells = this.table.checks.map((check, at) => {
      const cell = check.cells[row];
      if (!cell) return el("td", { class: "absent" });
      const verdict = verdictOf(cell.verdict);
      const full = cell.is_bound ? cell.stated : exponential(cell.difference);
      const text = `${verdict.symbol}\u2009${compact ? shortest(cell.difference) : full}`;
      const label = `${parameter.name}, step ${check.step}: ${verdict.words}, ${differenceText(cell)}`;
      return el("td", { class: verdict.tone, tabindex: -1, "data-row": row, "data-check": at, "aria-label": label }, text);
    });
    return el("tr", { "data-row": row }, name, cells);
  }

  /** Mark the chosen cell; the arrow keys go on from there. */
  mark(chosen, focus = false) {
    for (const node of this.node.querySelectorAll(".chosen")) {
      node.classList.remove("chosen");
      if (node.tabIndex === 0) node.tabIndex = -1;
    }
    this.node.querySelector(`thead [data-check="${chosen.check}"]`)?.classList.add("chosen");
    this.node.querySelector(`tr[data-row="${chosen.parameter}"] > .name`)?.classList.add("chosen");
    const cell = this.node.querySelector(`td[data-row="${chosen.parameter}"][data-check="${chosen.check}"]`);
    if (!cell) return;
    cell.classList.add("chosen");
    cell.tabIndex = 0;
    cell.setAttribute("aria-selected", "true");
    this.#reveal(cell);
    if (focus) cell.focus({ preventScroll: true });
  }

  /** Scroll within the table only: the page stays where it is. */
  #reveal(cell) {
    const box = this.node.getBoundingClientRect();
    const names = this.node.querySelector("th.name").getBoundingClientRect().width;
    const place = cell.getBoundingClientRect();
    if (place.right > box.right) this.node.scrollLeft += place.right - box.right + 20;
    if (place.left < box.left + names) this.node.scrollLeft -= box.left + names - place.left + 20;
    if (place.bottom > box.bottom) this.node.scrollTop += place.bottom - box.bottom + 12;
    if (place.top < box.top + 30) this.node.scrollTop -= box.top + 30 - place.top;
  }

  #pick(cell) {
    if (cell) this.choose(Number(cell.dataset.row), Number(cell.dataset.check), true);
  }

  #walk(event) {
    const from = event.target.closest("td[data-check]");
    const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] ?? [0, 0];
    if (!from || (!down && !right)) return;
    event.preventDefault();
    const line = from.parentElement;
    const target = down ? (down > 0 ? line.nextElementSibling : line.previousElementSibling) : line;
    const cell = target?.children[from.cellIndex + right];
    if (cell?.dataset.check !== undefined) this.#pick(cell);
  }

  #showTip(event) {
    const cell = event.target.closest("td[data-check]");
    if (!cell) return hideTip();
    const [row, at] = [Number(cell.dataset.row), Number(cell.dataset.check)];
    const shown = this.table.checks[at].cells[row];
    const place = `step ${this.table.checks[at].step}: ${verdictOf(shown.verdict).words}`;
    showTip(event, [this.table.parameters[row].name, place, differenceText(shown)]);
  }
}

/** Only the power of ten, where there are many columns. */
function shortest(value) {
  const x = number(value);
  if (!Number.isFinite(x)) return "";
  return x === 0 ? "0" : String(Math.floor(Math.log10(x))).replace("-", "\u2212");
}
