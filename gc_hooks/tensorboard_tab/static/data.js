// The checks of the log, asked from the tab's server side. Every address is relative: TensorBoard may have a prefix.

export class Missing extends Error {}

async function ask(route, query = {}) {
  const search = new URLSearchParams(query).toString();
  const answer = await fetch(`./${route}${search ? `?${search}` : ""}`);
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  throw new Missing(told.error ?? `TensorBoard answered ${answer.status} to ${route}.`);
}

/** Every run with its worst check, the worst run first. */
export async function loadRuns() {
  return (await ask("runs")).json();
}

/** All checks of a run, as a table. */
export async function loadChecks(run) {
  return (await ask("checks", { run })).json();
}

const kept = new Map();
const MOST_KEPT = 200;

/** One whole report; it never changes, so it is asked once. */
export async function loadCheck(run, key) {
  const name = JSON.stringify([run, key]);
  if (!kept.has(name)) {
    if (kept.size >= MOST_KEPT) kept.delete(kept.keys().next().value);
    const report = (await ask("check", { run, step: key })).json();
    kept.set(name, report);
    report.catch(() => kept.delete(name));
  }
  return kept.get(name);
}

/** One report as text for a bug report. */
export async function loadMarkdown(run, key) {
  return (await ask("markdown", { run, step: key })).text();
}

/** Other data under the same names: a log that was deleted and written anew. */
export function forget() {
  kept.clear();
}
