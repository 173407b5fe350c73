"""The tab as a person sees it: a real browser, without a window, in front of a real TensorBoard."""

from __future__ import annotations

import math
import re
import shutil

import pytest
import tensorboard_data_server

from gc_hooks import CheckReport, TensorBoardReporter, Verdict
from gc_hooks.report.comparison import Basis, Comparison
from gc_hooks.report.diagnosis import Diagnosis
from gc_hooks.report.plots import ParameterPlot, StepCurve
from hunts import some
from servers import SAFETY_LIMIT, WITHOUT_THE_TAB, fetch, patiently, tensorboard

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install gc_hooks[browser]")
playwright.expect.set_options(timeout=1000 * SAFETY_LIMIT)

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
HOSTILE = "W<img src=x onerror=alert(1)>"
HOSTILE_RUN = "x<img src=x onerror=alert(1)>"
CURVE = StepCurve("", (0.25, 1e-3, 1e-6, 1e-9, 1e-12), (0.1, 1e-6, 1e-10, 1e-7, 1e-4), 0.5, 1e-13, 1e-16, 1e-6)


def a_comparison(name, difference, shape=(4, 6), **fields):
    verdict = Verdict.WORRY if difference >= 1e-3 else Verdict.GOOD
    return Comparison(name, shape, difference, difference / 10, verdict, basis=Basis.ESTIMATED, **fields)


def a_report(step, differences, **fields):
    """A report with a comparison and a picture for each parameter; a wrong one is wrong in its second row."""
    comparisons = {name: a_comparison(name, difference) for name, difference in differences.items()}
    pictures = {
        name: ParameterPlot(
            entries=tuple((k, 1.0, 0.5 if d >= 1e-3 and k // 6 == 1 else 1e-12, 1e-14) for k in range(24)),
            directions=((2.0, 1e-12, 1e-13),),
            weights=(1, 5, 9, 5, 1),
            low=-1.0,
            high=1.0,
        )
        for name, d in differences.items()
    }
    worst = max(differences.values(), default=math.nan)
    return CheckReport(
        comparisons, difference=worst, error=worst / 10, step=step, pictures=pictures, curve=CURVE, **fields
    )


def write(folder, *reports):
    reporter = TensorBoardReporter(folder)
    for report in reports:
        reporter.report(report)
    return reporter


FOUND = Diagnosis("scaled", ("W2",), "dW2 is exactly 2 times the measured slope.", "With dW2 / 2 it would be 3e-16.")


GOOD = {"W1": 1e-11, "b1": 2e-12, "W2": 3e-10}
LATE = [a_report(step, GOOD) for step in (0, 1)]
LATE += [
    a_report(step, {**GOOD, "W2": 0.25}, diagnoses=(FOUND,), unasked=("same bits twice: no function",))
    for step in (100, 200)
]


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """A run that goes wrong at its third check, a clean one, and one with hostile names."""
    folder = tmp_path_factory.mktemp("logs")
    write(folder / "late", *LATE).close()
    write(folder / "clean", *(a_report(step, GOOD) for step in (0, 1, 100))).close()
    hostile = Diagnosis("<b>code</b>", (HOSTILE,), "<script>alert(2)</script>", "<i>evidence</i>", "&amp;")
    write(
        folder / HOSTILE_RUN,
        a_report(0, {HOSTILE: 1e-9, "__proto__": 1e-9}, diagnoses=(hostile,), notes=("<b>note</b>",)),
    ).close()
    return folder


@pytest.fixture(scope="module")
def browser():
    """A browser of this machine, or Playwright's own."""
    with playwright.sync_playwright() as started:
        path = next(filter(None, map(shutil.which, BROWSERS)), None)
        try:
            opened = started.chromium.launch(executable_path=path, args=QUIET, timeout=1000 * SAFETY_LIMIT)
        except playwright.Error:
            pytest.skip("needs Chromium: apt-get install chromium, or playwright install chromium")
        yield opened
        opened.close()


@pytest.fixture(scope="module", params=some(["true", "false"], ["false"]))
def server(request, logs, tmp_path_factory):
    """The address of a TensorBoard on these logs, by its fast loader and by its Python one."""
    if request.param == "true" and tensorboard_data_server.server_binary() is None:
        pytest.skip("there is no fast loader for this machine")
    with tensorboard(logs, request.param, tmp_path_factory.mktemp("server") / "output") as address:
        patiently(lambda: len(fetch(address, "plugin/gradcheck/runs") or ()) >= 3)
        yield address


class Tab:
    """The tab in a window, and all that went wrong in it."""

    def __init__(self, browser, address, *, dark=False, width=1400):
        self.address, self.troubles = address, []
        self.context = browser.new_context(
            viewport={"width": width, "height": 1000}, permissions=["clipboard-read", "clipboard-write"]
        )
        self.context.set_default_timeout(1000 * SAFETY_LIMIT)
        self.page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.troubles.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: (self.troubles.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        self.page.on("console", self._console)
        self.page.on("request", self._request)
        self.page.goto(f"{address}/{'?darkMode=true' if dark else ''}#gradcheck")
        self.frame = self.page.frame_locator('iframe[src*="name=gradcheck"]')

    def _console(self, message):
        url = message.location.get("url", "")
        if message.type == "error" and "/font-roboto/" not in url:  # TensorBoard asks its fonts without the prefix
            self.troubles.append(f"console: {message.text} {url}")

    def _request(self, request):
        host = re.match(r"(?:data|blob):|https?://[^/]+", request.url)
        if host and not host.group().startswith(("data:", "blob:")) and host.group() not in self.address:
            self.troubles.append(f"request: {request.url}")

    def __call__(self, name):
        return self.frame.get_by_test_id(name).first

    def cell(self, parameter, step):
        label = re.compile(rf"^{re.escape(parameter)}, step {step}:")
        return self.frame.get_by_label(label).and_(self.frame.locator("td")).first

    def shows(self, name, text):
        playwright.expect(self(name)).to_contain_text(text)

    def reload(self):
        self.page.locator("app-header-reload button").click()

    def heat(self):
        """The picture of the heat map, as the bytes that are on the screen."""
        return self("heat-map").evaluate("canvas => canvas.toDataURL()")


@pytest.fixture
def tab(browser, server):
    """The tab; after the test nothing may have gone wrong in it."""
    opened = Tab(browser, server)
    yield opened
    opened.context.close()
    assert opened.troubles == []


def test_the_tab_opens_on_the_worst_check(tab):
    """The run and the step with the worst verdict, its diagnosis, and the parameter that fails."""
    tab.shows("verdict", "worry")
    tab.shows("diagnosis", "dW2 is exactly 2 times the measured slope.")
    tab.shows("place", "3 of 4, step 100")
    tab.shows("parameter", "W2")
    tab.shows("detail", "With dW2 / 2 it would be 3e-16.")
    assert tab("run").input_value() == "late/gradcheck"


def test_the_table_holds_the_reported_numbers(tab):
    """Worst first; each cell says its verdict by a sign, and its difference."""
    tab("detail").wait_for()
    rows = [row.split("\t") for row in tab("table").locator("tr").all_inner_texts()]
    assert rows[0][1:] == ["0", "1", "100", "200"]
    assert [row[0].split()[0] for row in rows[1:]] == ["W2", "W1", "b1"]
    assert [cell.replace("\u2009", " ") for cell in rows[1][1:]] == ["✓ 3.0e-10", "✓ 3.0e-10", "✗ 2.5e-01", "✗ 2.5e-01"]
    tab("order").select_option("network")
    playwright.expect(tab("table").locator("tbody th").first).to_contain_text("W1")


def test_the_words_are_those_of_the_console(tab):
    """The difference of the check and of the parameter, and every remark."""
    tab("detail").wait_for()
    report = LATE[2]
    playwright.expect(tab.frame.locator(".verdict-line")).to_contain_text(f"difference {report.stated}")
    tab.shows("detail", f"{report.parameters['W2'].stated}, estimated from")
    tab("remarks").locator("summary").click()
    assert tab("remarks").locator("li").all_inner_texts()[:-1] == report.remarks


def test_choosing_a_cell_changes_what_is_shown(tab):
    """Parameter, heat map and verdict follow; hovering the map tells index, backprop, measured and bar."""
    tab("heat-map").wait_for()
    wrong = tab.heat()
    tab.cell("b1", 0).click()
    tab.shows("parameter", "b1")
    tab.shows("verdict", "good")
    assert tab.heat() != wrong
    tab.cell("W2", 200).click()
    tab.shows("place", "4 of 4, step 200")
    playwright.expect(tab("heat-map")).to_be_visible()
    assert tab.heat() == wrong
    box = tab("heat-map").bounding_box()
    tab("heat-map").hover(position={"x": box["width"] / 12, "y": box["height"] * 3 / 8})
    tip = tab.frame.get_by_role("tooltip")
    playwright.expect(tip).to_contain_text("[1, 0]")
    playwright.expect(tip).to_contain_text("measured 0.5 ± 1e-14")


def test_the_keyboard_is_enough(tab):
    """The slider moves by the arrow keys, and so does the chosen cell of the table."""
    tab("detail").wait_for()
    tab("slider").focus()
    tab.page.keyboard.press("ArrowRight")
    tab.shows("place", "4 of 4, step 200")
    tab.page.keyboard.press("Home")
    tab.shows("place", "1 of 4, step 0")
    tab.shows("verdict", "good")
    tab.cell("W2", 0).focus()
    tab.page.keyboard.press("ArrowDown")
    tab.shows("parameter", "W1")
    tab.page.keyboard.press("ArrowRight")
    tab.shows("place", "2 of 4, step 1")
    tab("heat-map").focus()
    tab.page.keyboard.press("ArrowRight")
    playwright.expect(tab.frame.get_by_role("tooltip")).to_contain_text("[0, 0]")


def test_all_charts_are_drawn(tab):
    """Heat map, scatter, step curve with the chosen step, weights, and the history with a line for each parameter."""
    for chart in ("heat-map", "scatter", "step-curve", "chosen-step", "weights", "history"):
        playwright.expect(tab(chart)).to_be_visible()
    assert tab("history").locator("g.line").count() == 3
    assert tab("scatter").locator(".mark").count() == 25
    tab("history").locator("g.line.wrong circle").last.click()
    tab.shows("place", "4 of 4, step 200")


def test_two_runs_stand_side_by_side(tab):
    """The second one opens at the same step; each has its own verdict."""
    tab("detail").wait_for()
    tab("beside").select_option("clean/gradcheck")
    panels = tab.frame.get_by_test_id("panel")
    playwright.expect(panels).to_have_count(2)
    playwright.expect(panels.nth(1).get_by_test_id("verdict")).to_contain_text("good")
    playwright.expect(panels.nth(1).get_by_test_id("place")).to_contain_text("step 100")
    left, right = (panels.nth(k).bounding_box() for k in (0, 1))
    assert left["x"] + left["width"] <= right["x"]
    assert left["y"] == right["y"]


def test_the_report_is_copied_as_markdown(tab, logs):
    """The button puts the very text of the report on the clipboard."""
    tab("detail").wait_for()
    # The word is there for a moment only, which a busy machine may miss: the page itself takes it down.
    noting = "new MutationObserver(() => told(button.textContent)).observe(button, {childList: true})"
    tab("copy").evaluate(f"button => {{ window.firstWord = new Promise(told => {noting}); }}")
    tab("copy").click()
    assert tab("copy").evaluate("() => window.firstWord") == "Copied"
    text = tab.page.evaluate("navigator.clipboard.readText()")
    assert text.startswith("**step 100: WORRY")
    assert "| W2 | 4x6 | WORRY |" in text


def test_hostile_names_are_shown_as_text(tab):
    """Names, codes, messages and notes with markup stand there letter by letter, and nothing runs."""
    tab("detail").wait_for()
    tab("run").select_option(f"{HOSTILE_RUN}/gradcheck")
    tab.shows("diagnosis", "<script>alert(2)</script>")
    tab.cell(HOSTILE, 0).click()
    tab.shows("parameter", HOSTILE)
    tab.shows("detail", "<i>evidence</i>")
    tab.cell("__proto__", 0).click()
    tab.shows("parameter", "__proto__")
    assert tab.frame.locator("img, script:not([src]):not([type]), b, i").count() == 0


def test_new_checks_arrive_on_reload(browser, tmp_path_factory):
    """An open page without data says how to fill it; the reload button brings the first check, and then the next."""
    folder = tmp_path_factory.mktemp("growing")
    with tensorboard(folder, "false", tmp_path_factory.mktemp("server") / "output") as address:
        tab = Tab(browser, address)
        tab("empty").wait_for()
        tab.shows("empty", "GradCheckHook(after=500")
        reporter = write(folder, a_report(0, {"W": 1e-9}))
        patiently(lambda: fetch(address, "plugin/gradcheck/runs"))
        tab.reload()
        tab.shows("place", "1 of 1, step 0")
        reporter.report(a_report(7, {"W": 0.5}))
        reporter.close()
        patiently(lambda: len(fetch(address, "plugin/gradcheck/checks", run="gradcheck")["checks"]) == 2)
        tab.reload()
        tab.shows("place", "1 of 2, step 0")
        playwright.expect(tab.cell("W", 7)).to_contain_text("✗")
        tab.context.close()
        assert tab.troubles == []


def test_both_themes_and_both_widths(browser, server):
    """Dark follows TensorBoard's switch; nothing is wider than the window, at 1000 pixels and at 1900."""
    for width in (1000, 1900):
        for dark in (False, True):
            tab = Tab(browser, server, dark=dark, width=width)
            tab("detail").wait_for()
            root = tab.frame.locator("html")
            assert root.get_attribute("data-theme") == ("dark" if dark else "light")
            red, *_ = root.evaluate("n => getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
            assert (red < 100) == dark
            assert root.evaluate("n => n.scrollWidth <= n.clientWidth")
            tab.context.close()
            assert tab.troubles == []


def test_a_path_prefix_changes_nothing(browser, logs, tmp_path):
    """Behind a proxy every address is relative."""
    with tensorboard(logs, "false", tmp_path / "output", "--path_prefix", "/my/tb") as address:
        tab = Tab(browser, f"{address}/my/tb")
        tab("detail").wait_for()
        tab.context.close()
        assert tab.troubles == []


def test_sixty_checks_of_forty_parameters_are_shown_at_once(browser, tmp_path_factory):
    """A long training of a deep network: every cell is there, and choosing one answers."""
    folder = tmp_path_factory.mktemp("long")
    names = [f"block{k // 4}.dense{k % 4}.W" for k in range(40)]
    write(folder, *(a_report(100 * k, dict.fromkeys(names, 1e-11)) for k in range(60))).close()
    with tensorboard(folder, "true", tmp_path_factory.mktemp("server") / "output") as address:
        patiently(lambda: fetch(address, "plugin/gradcheck/runs"))
        tab = Tab(browser, address)
        tab("detail").wait_for()
        assert tab("table").locator("td").count() == 2400
        tab.cell(names[20], 3000).click()
        tab.shows("parameter", names[20])
        tab.shows("place", "31 of 60, step 3000")
        tab.context.close()
        assert tab.troubles == []


def test_a_tab_that_cannot_be_loaded_says_why(browser, logs, tmp_path):
    """In place of the checks there is a sentence: what is missing, and what to try."""
    with tensorboard(logs, "false", tmp_path / "output", program=("-c", WITHOUT_THE_TAB)) as address:
        tab = Tab(browser, address)
        text = tab.frame.locator("body")
        playwright.expect(text).to_contain_text("cannot be shown here: ModuleNotFoundError")
        playwright.expect(text).to_contain_text("pip install --upgrade --force-reinstall gc_hooks")
        tab.context.close()
        assert tab.troubles == []
