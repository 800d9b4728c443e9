"""What a reader of the page can do, in a real browser."""

import itertools
from importlib.util import find_spec

import pytest

from orchestrator.evidence.value import DENSE, Variant
from orchestrator.report import render_html
from orchestrator.tracks import Track, expect
from tests.report.chromium import AXE, WIDTHS, browser, opened
from tests.report.large_reports import make_large_report
from tests.report.small_reports import make_report, observe, scoring_of

PRINTED = 1047
"""CSS pixels of an A4 page on its side, within its margins."""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,  # a browser opens a large page in each
    pytest.mark.skipif(
        not find_spec("altair") or not find_spec("vl_convert"),
        reason="altair and vl-convert-python are not installed: make setup",
    ),
]
running = pytest.fixture(scope="module")(browser)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_html(make_report()), "utf-8")
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "large.html"
    path.write_text(render_html(make_large_report()), "utf-8")
    return path


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    """Eight variants, each a little better and larger than the one before, and dense far away: all on the front."""
    report, found = make_report(), []
    variants = [Variant(method=f"method-{number}", setting="50%") for number in range(8)]
    for step, variant in zip([*range(8), 200], [*variants, DENSE], strict=True):
        size = 2**30 + step * 2**21
        found += [
            observe(1, "knowledge", "mmlu", variant, 0.5 + step / 1000, "tiny-llama", unit="fraction"),
            observe(
                4, "memory", "peak_memory_bytes", variant, size, "tiny-llama", higher_is_better=False, unit="bytes"
            ),
            observe(5, "vllm", "batch 1", variant, 90.0 - step / 10, "tiny-llama", unit="tokens/s"),
        ]
    tracks = [expect(track, ["tiny-llama"], backends=["vllm"]) for track in (Track(1), Track(4), Track(5))]
    scoring = scoring_of(found, tracks, variants=[DENSE, *variants])
    path = tmp_path_factory.mktemp("page") / "crowded.html"
    path.write_text(render_html(report.model_copy(update={"scoring": scoring, "variants": ()})), "utf-8")
    return path


def shown(page, table="#candidates"):
    return page.ask(
        f"[...document.querySelectorAll('{table} tbody tr')].filter(row => !row.hidden)"
        ".map(row => row.cells[0].firstChild.textContent.trim())"
    )


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_the_page_asks_for_nothing_and_fits_its_window(running, large, width):
    with opened(running, large, width) as page:
        page.page.wait_for_selector("[data-scatter] svg path")
        assert page.requests == [large.as_uri()]
        assert page.complaints == []
        assert page.overflow == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.skipif(AXE is None, reason="name axe-core's axe.min.js in LLMCBENCH_AXE: npm pack axe-core")
def test_axe_finds_nothing(running, small, width, scheme):
    with opened(running, small, width, color_scheme=scheme) as page:
        page.page.wait_for_selector("[data-scatter] svg path")
        page.ask("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        assert page.findings() == []


def test_a_run_of_the_papers_size_is_a_page_that_can_be_used(running, large):
    assert large.stat().st_size < 3_000_000
    with opened(running, large) as page:
        page.page.wait_for_selector("[data-scatter] svg path")
        assert page.screens <= 20


def test_a_limit_reaches_table_plot_and_sentence(running, large):
    with opened(running, large) as page:
        before = shown(page)
        page.page.uncheck("[name=all]")
        page.page.fill("[name=limit-memory]", "0.8")
        page.wait_until("document.getElementById('kept').textContent.startsWith('Of ')")
        kept = shown(page)
        assert set(kept) < set(before)
        assert "dense" not in kept
        told = page.ask("document.getElementById('kept').textContent")
        assert told.startswith(f"Of {len(before)} rows ")
        assert told.endswith(f" {len(before) - len(kept)} do not and are hidden.")
        page.wait_until("document.querySelectorAll('[data-scatter=memory] svg [opacity=\"0.25\"]').length > 0")
        page.page.click("#limits [type=reset]")
        page.wait_until("document.getElementById('kept').textContent.endsWith('no limit is set.')")
        assert shown(page) == before


def test_filters_reach_every_table_and_track(running, large):
    with opened(running, large) as page:
        page.page.select_option("[name=method]", "wanda")
        assert {label.split()[0] for label in shown(page)} == {"wanda"}
        assert set(shown(page, "#track-1 ~ .scroll table")) == {"dense", "wanda"}
        page.page.select_option("[name=track]", "2")
        assert page.page.is_hidden("#track-1")
        assert page.page.is_visible("#track-2")


def test_a_click_sorts_by_figures_and_a_second_one_turns_it(running, large):
    with opened(running, large) as page:
        heading = page.page.locator("#candidates thead th", has_text="Memory")
        for direction in ("ascending", "descending"):
            heading.locator("button").click()
            assert heading.get_attribute("aria-sort") == direction
            column = heading.evaluate("head => head.cellIndex")
            figures = page.ask(
                "[...document.querySelectorAll('#candidates tbody tr')].filter(row => !row.hidden)"
                f".map(row => parseFloat(row.cells[{column}].textContent)).filter(figure => !isNaN(figure))"
            )
            assert figures == sorted(figures, reverse=direction == "descending")
            assert len(set(figures)) > 5


def test_why_a_cell_is_empty_is_told_on_focus_and_on_hover(running, small):
    with opened(running, small) as page:
        missing = page.page.locator("#candidates a.why", has_text="\N{EN DASH}").first
        reason = page.ask("document.querySelector(document.querySelector('#candidates a.why').hash).textContent.trim()")
        missing.focus()
        assert page.page.inner_text("#tip") == reason
        page.page.keyboard.press("Escape")
        assert page.page.is_hidden("#tip")
        missing.hover()
        assert page.page.inner_text("#tip") == reason


def test_headings_stay_in_view(running, large):
    with opened(running, large, WIDTHS["phone"]) as page:
        page.page.select_option("[name=model]", "")
        page.ask("document.querySelector('#candidates').parentElement.scrollTo(300, 900)")
        frame, head, name = (
            page.ask(f"(({{x, y}}) => [x, y])(document.querySelector('{one}').getBoundingClientRect())")
            for one in (".scroll:has(#candidates)", "#candidates thead th", "#candidates tbody tr:nth-child(40) th")
        )
        assert head == pytest.approx(frame, abs=1)
        assert name[0] == pytest.approx(frame[0], abs=1)


def test_no_column_is_lost_in_print(running, large):
    with opened(running, large, PRINTED) as page:
        page.ask("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        page.page.emulate_media(media="print")
        widest = page.ask(
            "Math.max(...[...document.querySelectorAll('table')].map(one => one.getBoundingClientRect().right))"
        )
        assert widest <= PRINTED
        assert page.page.is_hidden(".bar")


NAMES = """[...document.querySelectorAll('[data-scatter]')].map(
  plot => [...plot.querySelectorAll('.mark-text.role-mark text')].filter(name => name.getAttribute('opacity') !== '0')
    .map(name => [name.textContent, name.getBoundingClientRect()])
    .map(([text, box]) => [text, box.left, box.right, box.top + 1, box.bottom - 1]))"""
"""In each plot those that are shown, with their boxes; a line is a pixel higher and lower than its letters."""


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_names_in_a_plot_do_not_hide_each_other(running, crowded, width):
    with opened(running, crowded, width) as page:
        page.page.wait_for_selector("[data-scatter] .mark-text.role-mark text")
        front = page.page.inner_text("[data-scatter=memory] >> xpath=preceding-sibling::figcaption")
        for names in page.ask(NAMES):
            assert len(names) > 3
            for one, other in itertools.combinations(names, 2):
                apart = one[2] <= other[1] or other[2] <= one[1] or one[4] <= other[3] or other[4] <= one[3]
                assert apart, (one, other)
            assert all(text in front for text, *_ in names)
            assert max(right for _, _, right, *_ in names) <= page.ask("document.documentElement.clientWidth")


def test_without_scripts_the_page_has_all_figures(running, small):
    made = running.new_context(java_script_enabled=False)
    page = made.new_page()
    page.goto(small.as_uri())
    assert page.locator("#candidates tbody tr").count() == 3
    assert page.is_hidden("#limits")
    made.close()
