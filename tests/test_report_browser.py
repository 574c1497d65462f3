"""The report's page in a browser: it draws, its controls work, it asks for nothing."""

from __future__ import annotations

import shutil

import pytest
from evaluation_fixture import make_results

from trainpilot.agents.evaluation.report.findings import find
from trainpilot.agents.evaluation.report.html_page import render_html

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium is here: apt-get install chromium brings one"
)
EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        # Chromium's own sandbox does not start as root, as tests in containers run.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    results = make_results(n_tasks=4, n_controllers=8, task_names=(EVIL,))
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render_html(results, find(results)))
    return path.as_uri()


@pytest.fixture
def opened(browser, address):
    """Opens the page; at the end nothing may have gone wrong or been asked for."""
    pages, trouble = [], []

    def open_page(**options):
        page = browser.new_page(**options)
        page.on("console", lambda message: trouble.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
        page.on("dialog", lambda dialog: trouble.append(f"dialog: {dialog.message}"))
        page.on(
            "request",
            lambda request: request.url == address or trouble.append(f"request: {request.url}"),
        )
        page.goto(address)
        page.wait_for_selector("#profile path.line", state="attached")
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert trouble == []


@pytest.fixture
def page(opened):
    return opened(viewport={"width": 1280, "height": 900})


def curve(page, name="policy"):
    return page.locator(f'#curves path.line[data-name="{name}"]').get_attribute("d")


def order(page):
    rows = page.locator("#table tbody tr")
    return rows.evaluate_all("rows => rows.map(row => row.dataset.name)")


def test_the_task_and_the_measure_change_the_curve(page):
    first = curve(page)
    page.select_option("#curves-task", "digits_cnn")
    second = curve(page)
    assert first != second
    # A task is the same everywhere.
    assert page.input_value("#h-schedule ~ .controls select[data-state=task]") == "digits_cnn"
    page.get_by_role("button", name="Log scale").click()
    assert curve(page) != second
    linear = curve(page)
    page.select_option("select[data-state=measure]", "test_accuracy")
    assert curve(page) != linear
    page.select_option("#curves-task", EVIL)
    assert curve(page) != linear


def test_controllers_come_and_go(page):
    names = "paths => paths.map(path => path.dataset.name)"
    shown = page.locator("#curves path.line").evaluate_all(names)
    assert shown[-1] == "policy"
    assert "shared_fixed" not in shown
    page.locator("[data-legend] summary").first.click()
    chip = page.locator("[data-legend]").first.get_by_role("button", name="shared_fixed")
    chip.press("Enter")
    after = page.locator("#curves path.line").evaluate_all(names)
    assert set(after) == {*shown, "shared_fixed"}
    # Profiles show the same ones, and the keyboard stays where it was.
    profiles = page.locator("#profile path.line").evaluate_all(names)
    # An oracle is in no profile.
    assert set(profiles) == set(after) - {"oracle_fixed"}
    assert page.evaluate("document.activeElement.dataset.name") == "shared_fixed"


def test_a_heading_sorts_and_turns_round(page):
    fastest = order(page)
    page.locator("#table button[data-key=name]").click()
    assert order(page) == sorted(fastest)
    assert page.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
    page.locator("#table button[data-key=name]").press("Enter")
    assert order(page) == sorted(fastest, reverse=True)
    page.locator("#table button[data-key=speedup]").click()
    assert order(page) == fastest
    # What has no number stands last, whichever way it is sorted.
    for _ in range(2):
        page.locator("#table button[data-key=final_test_loss_ratio]").click()
        assert order(page)[-1] == "policy_open_loop"


def test_kinds_and_references_filter_the_table(page):
    cell = page.locator("#table tr.subject td").nth(1)
    before = cell.inner_text()
    page.select_option("#h-table ~ .controls select[data-state=reference]", "oracle_fixed")
    assert cell.inner_text() != before
    page.select_option("select[data-state=kind]", "oracle")
    assert order(page) == ["oracle_fixed"]
    assert "knows more" in page.locator("#table tbody").inner_text()


def test_headings_and_curves_tell_their_values(page):
    tip = page.locator("#tip")
    assert tip.is_hidden()
    page.locator("#table button[data-key=reached]").focus()
    assert "Share of the runs" in tip.inner_text()
    chart = page.locator("#curves svg")
    chart.focus()
    chart.press("ArrowRight")
    chart.press("ArrowRight")
    by_key = tip.inner_text()
    assert "320 samples" in by_key
    assert "policy" in by_key
    chart.press("Escape")
    assert tip.is_hidden()
    box = chart.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 20, box["y"] + 100)
    assert "3,840 samples" in tip.inner_text()


def test_tiles_give_a_verdict_only_where_runs_reach_the_target(browser, tmp_path):
    results = make_results()
    own = results["summary"]["policy"]["speedup"]
    own["adam_default"] |= {"ci_low": 1.1, "ci_high": 1.2, "reached": 0.95}
    own["oracle_fixed"] |= {"ci_low": 0.8, "ci_high": 0.9, "reached": 0.94}
    path = tmp_path / "report.html"
    path.write_text(render_html(results, find(results)))
    page = browser.new_page()
    page.goto(path.as_uri())
    words = page.locator("#glance small").all_inner_texts()
    page.close()
    assert words == ["faster", "no verdict"]


def test_the_profile_says_of_whom_it_has_no_line(page):
    legend = page.locator("[data-legend=profile]")
    absent = [text.split("\n")[0] for text in legend.locator("li.absent").all_inner_texts()]
    assert len(absent) == 1
    assert absent[0].startswith("oracle_fixed")
    assert page.locator("[data-legend=''] li.absent").count() == 0
    n_lines = legend.locator("li").count() - 1
    assert page.locator("#profile path.line").count() == n_lines


def test_dots_and_strips_follow_their_controls(page):
    n_controllers = len(order(page))
    assert page.locator("#dots g.dot").count() == 4 * n_controllers
    page.select_option("#dots-task", "digits_cnn")
    assert page.locator("#dots g.dot").count() == 3 * n_controllers
    page.select_option("#schedule-controller", "policy")
    page.select_option("#curves-task", "digits_cnn")
    assert page.locator("#schedule rect.strip").count() > 3
    headings = page.locator("#schedule h3").all_inner_texts()
    assert headings[1].startswith("Batch size in micro-batches of 32 examples")
    page.select_option("#schedule-controller", "adam")
    assert page.locator("#schedule rect.strip").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_theme_is_the_systems_until_it_is_toggled(opened, scheme):
    page = opened(color_scheme=scheme)
    colour = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    before = page.evaluate(colour)
    page.locator("#theme").click()
    assert page.evaluate("document.documentElement.dataset.theme") != scheme
    assert page.evaluate(colour) != before


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_page(opened, width):
    page = opened(viewport={"width": width, "height": 800})
    for details in page.locator("summary").all():
        details.click()
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_names_are_text(page):
    assert EVIL in page.locator("#curves-task").inner_text()


@pytest.mark.parametrize("case", [{"without": ("policy", "policy_open_loop")}, {"n_tasks": 1}])
def test_other_evaluations_draw_too(browser, tmp_path, case):
    results = make_results(n_seeds=1, **case)
    # Numbers that are not there.
    for line in results["summary"].values():
        line["speedup"]["adam_default"]["ci_low"] = None
        line["final_test_loss_ratio"] = None
    path = tmp_path / "report.html"
    path.write_text(render_html(results, find(results)))
    errors = []
    page = browser.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_selector("#profile path.line", state="attached")
    for select in page.locator("select").all():
        select.select_option(index=select.locator("option").count() - 1)
    page.close()
    assert errors == []
