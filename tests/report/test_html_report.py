"""The HTML page: whole, safe, readable without a network."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from orchestrator.report import render_html
from tests.report.small_reports import HOSTILE

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
LOADING = {"src", "href", "srcset", "data", "poster", "action", "xlink:href"}


class Page(HTMLParser):
    """Checks that tags nest, and collects attributes, text and ids."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self._keep(tag, attrs)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self._keep(tag, attrs)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def _keep(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id"]


@pytest.fixture
def html(report):
    return render_html(report)


@pytest.fixture
def page(html):
    return Page(html)


def test_the_page_is_one_well_nested_document(html, page):
    assert html.startswith("<!DOCTYPE html>")
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))


def test_the_page_loads_nothing(html, page):
    loaded = [value for _, name, value in page.attributes if name in LOADING]
    assert all(value.startswith("#") for value in loaded)
    assert not {"link", "img", "iframe", "object", "embed"} & set(page.tags)
    assert not re.search(r"@import|url\(|https?://", re.sub(r"<script.*?</script>", "", html, flags=re.DOTALL))


def test_the_policy_names_each_script_by_its_content_and_allows_nothing_else(html):
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)[1]
    scripts = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in scripts]
    assert digests
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; script-src ")
    assert re.findall(r"'sha256-([^']*)'", policy) == digests
    assert "unsafe-eval" not in policy


def test_every_link_leads_to_an_id_of_the_page(page):
    links = [value[1:] for _, name, value in page.attributes if name == "href"]
    assert links
    assert set(links) <= set(page.ids)


def test_the_page_holds_scores_parts_coverage_stages_and_provenance(page):
    for expected in (
        "81.97 (1/9)",
        "own 80.62 (2/9)",
        "81.97",
        "partial: 2 of 9 data sets",
        "with wanda 50% alone, 100 by construction",
        "6 738 415 616",
        "850.00 GMACs",
        "16.00 GiB",
        "c4, 128 x 2048 tokens, seed 0",
        "choose another back end",
        "process:34ab:cp311",
        "torch 2.13.0",
        "runs/run-7",
        "dtype float32: the processor has no bfloat16 arithmetic",
    ):
        assert expected in page.text, expected


def test_a_missing_score_is_a_dash_with_a_link_to_its_reason(html, page):
    found = re.search(r'<td class="n"><a class="why" href="#(note-\d+)">\N{EN DASH}</a></td>', html)
    assert found
    reasons = dict(re.findall(r'<li id="(note-\d+)">([^<]*)</li>', html))
    assert found[1] in reasons
    assert "compress failed: out of memory" in reasons.values()
    assert "vLLM no longer serves 2:4 checkpoints" in reasons.values()


def test_the_plot_is_inline_named_and_read_out(html, page):
    assert ("svg", "role", "img") in page.attributes
    assert ("svg", "aria-labelledby", "radar-title radar-description") in page.attributes
    assert {"radar-title", "radar-description"} <= set(page.ids)
    assert "wanda 50%: OM_perf 81.97, OM_gen missing, OM_train 100.00" in page.text


def test_tables_have_captions_and_scoped_headings(page):
    tables = page.tags.count("table")
    assert tables > 5
    assert page.tags.count("caption") == tables
    assert {value for tag, name, value in page.attributes if tag == "th" and name == "scope"} == {"col", "row"}


def test_the_page_follows_the_readers_light_or_dark_setting(html):
    assert "color-scheme: light dark" in html
    assert "prefers-color-scheme: dark" in html


def test_names_and_messages_cannot_inject_markup(hostile_report):
    html = render_html(hostile_report)
    page = Page(html)
    assert "<script>alert" not in html
    assert page.tags.count("script") == html.count("<script")
    assert "<script>alert('x')</script>" in page.text
    assert page.open == []


def test_the_data_of_the_script_cannot_end_its_element(hostile_report):
    found = re.search(r'<script type="application/json" id="page-data">(.*?)</script>', render_html(hostile_report))
    document = json.loads(found[1])
    assert {one["model"] for one in document["candidates"]} == {HOSTILE}


def test_a_run_without_scores_still_makes_a_page(report):
    nothing = report.scoring.model_copy(update={"values": (), "scores": ()})
    bare = report.model_copy(update={"scoring": nothing, "stages": (), "variants": (), "models": ()})
    page = Page(render_html(bare))
    assert "0 of 0 stages done" in page.text
    assert "nothing measured" in page.text
    assert page.open == []
