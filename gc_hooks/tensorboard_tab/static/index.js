// The page: which run is shown, beside which other one, and what happens when TensorBoard has new data.

import { forget, loadRuns } from "./data.js";
import { el } from "./dom.js";
import { verdictOf } from "./format.js";
import { connect, followTheme } from "./host.js";
import { RunPanel } from "./panel.js";

const THREE_LINES = `hook = gc_hooks.GradCheckHook(after=500, log_dir="runs/mine")
trainer = nn.Trainer(model, loss, optimizer, callbacks=[hook])
# or, in a loop of your own:  hook.on_step(step, loss=loss, params=params, grads=grads)`;

/** TensorBoard's entry point. */
export async function render() {
  const styles = el("link", { rel: "stylesheet", href: "./style.css" });
  const loaded = new Promise((done) => ["load", "error"].forEach((kind) => styles.addEventListener(kind, done)));
  document.head.append(styles, el("meta", { name: "viewport", content: "width=device-width" }));
  const page = new Page();
  document.body.append(page.node);
  await loaded;
  followTheme(() => page.redraw());
  connect({ "experimental.DataReloaded": () => page.refresh(), "experimental.RunsChanged": () => page.refresh() });
  await page.refresh();
}

class Page {
  constructor() {
    this.options = { worstFirst: true };
    this.panels = [new RunPanel(this.options), new RunPanel(this.options)];
    this.pickers = [this.#picker("Run", "run"), this.#picker("beside", "beside")];
    this.order = el("select", { "aria-label": "order of the parameters", "data-testid": "order", change: () => this.#reorder() }, [
      el("option", { value: "worst" }, "worst first"),
      el("option", { value: "network" }, "in network order"),
    ]);
    this.message = el("div");
    this.bar = el("header", { class: "bar" }, this.pickers.map((picker) => picker.label), el("label", {}, "Parameters", this.order));
    this.body = el("div", { class: "panels" });
    this.node = el("main", {}, this.bar, this.message, this.body);
    this.bar.hidden = true;
  }

  #picker(text, testid) {
    const select = el("select", { "data-testid": testid, change: () => this.#open() });
    return { select, label: el("label", {}, text, select) };
  }

  /** Ask for the runs again: at the start, and whenever TensorBoard has read more. */
  async refresh() {
    await this.#guarded(async () => {
      const runs = await loadRuns();
      if (this.runs && runs.length < this.runs.length) forget();
      this.runs = runs;
      this.bar.hidden = !runs.length;
      if (!runs.length) {
        this.message.replaceChildren(emptyState());
        this.body.replaceChildren();
        return;
      }
      this.#offer(this.pickers[0].select, runs, this.pickers[0].select.value || runs[0].run);
      this.#offer(this.pickers[1].select, [null, ...runs], this.pickers[1].select.value);
      this.pickers[1].label.hidden = runs.length < 2;
      await this.#show();
    });
  }

  #offer(select, runs, chosen) {
    const options = runs.map((run) => (run ? el("option", { value: run.run }, `${verdictOf(run.verdict).symbol} ${run.run}`) : el("option", { value: "" }, "no other run")));
    select.replaceChildren(...options);
    select.value = chosen;
    if (select.selectedIndex < 0) select.selectedIndex = 0;
  }

  async #open() {
    await this.#guarded(() => this.#show());
  }

  async #show() {
    const names = this.pickers.map((picker) => picker.select.value);
    const shown = names[1] && names[1] !== names[0] ? names : names.slice(0, 1);
    const panels = this.panels.slice(0, shown.length);
    this.body.classList.toggle("two", shown.length > 1);
    if (this.body.childElementCount !== panels.length) this.body.replaceChildren(...panels.map((panel) => panel.node));
    for (const [k, run] of shown.entries()) await panels[k].open(run, this.runs.find((r) => r.run === run)?.key, panels[0].step);
    panels.forEach((panel, k) => panel.node.setAttribute("aria-label", `run ${shown[k]}`));
  }

  async redraw() {
    if (!this.runs?.length) return;
    await this.#guarded(() => Promise.all(this.panels.map((panel) => panel.redraw())));
  }

  #reorder() {
    this.options.worstFirst = this.order.value === "worst";
    this.redraw();
  }

  /** Do some work, and show on the page what goes wrong. */
  async #guarded(work) {
    try {
      this.message.replaceChildren();
      await work();
    } catch (error) {
      this.message.replaceChildren(el("p", { class: "trouble", role: "alert" }, `${error.message} TensorBoard's reload button tries again.`));
    }
  }
}

function emptyState() {
  return el(
    "section",
    { class: "empty", "data-testid": "empty" },
    el("h1", {}, "No gradient checks in this log yet"),
    el("p", {}, "They appear here as soon as a hook has made the first one. Three lines fill this page:"),
    el("pre", {}, THREE_LINES),
    el("p", { class: "quiet" }, "Press TensorBoard's reload button, or switch on its automatic reload, while the training runs."),
  );
}
