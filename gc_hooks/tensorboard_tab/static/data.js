// Asks the tab's server for the checks of the log. Every address is relative: TensorBoard may have a prefix.

export class Missing extends Error {}

async function ask(route, query = {}) {
  const search = new URLSearchParams(query).toString();
  const answer = await fetch(`./${route}${search ? `?${search}` : ""}`);
  if (answer.ok) return answer;
  const refusal = await answer.json().catch(() => ({}));
  throw new Missing(refusal.error ?? `TensorBoard answered ${answer.status} to ${route}.`);
}

/** Every run with its worst check, the worst run first. */
export async function loadRuns() {
  return (await ask("runs")).json();
}

/** All checks of a run, as a table. */
export async function loadChecks(run) {
  return (await ask("checks", { run })).json();
}

const reports = new Map();
const MOST_REPORTS = 200; // a page that is open for days must not fill the browser's memory

/** One report with its sentences; a check never changes, so it is asked for once. */
export async function loadCheck(run, key) {
  const name = JSON.stringify([run, key]);
  if (!reports.has(name)) {
    if (reports.size >= MOST_REPORTS) reports.delete(reports.keys().next().value);
    const report = (await ask("check", { run, step: key })).json();
    reports.set(name, report);
    report.catch(() => reports.delete(name));
  }
  return reports.get(name);
}

/** One report as text for a bug report. */
export async function loadMarkdown(run, key) {
  return (await ask("markdown", { run, step: key })).text();
}

/** Forget all reports, because a log was deleted and written anew: other data under the same names. */
export function forget() {
  reports.clear();
}
