"""The README's picture and the answer below it, from the report of one run that `benchmarks/picture/` keeps.

`python benchmarks/report_picture.py` opens the kept report in Chromium, writes `docs/report-light.png` and
`docs/report-dark.png`, and the answer into the README. With `--run RUN --store DIR` it first keeps that run's report in
place of the former one, without any text of a data set.
"""

import argparse
import gzip
import os
import re
import shutil
import tempfile
import textwrap
from pathlib import Path

from orchestrator.images.catalog import ImageCatalog
from orchestrator.report import RunReport, render_html
from orchestrator.report.building import build_report
from orchestrator.report.recommendation import recommendations
from orchestrator.store import Store
from orchestrator.store.history import open_run

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
MANIFEST = ROOT / "benchmarks" / "picture" / "manifest.yaml"
REPORT = MANIFEST.with_name("report.json.gz")
PICTURES = {scheme: ROOT / "docs" / f"report-{scheme}.png" for scheme in ("light", "dark")}
WIDTH, HEIGHT = 1280, 1140
"""Of the window in CSS pixels, which are the picture's: it shows answer, limits and both plots whole."""
MARGIN = 24
"""Below the plots, in CSS pixels."""

BEGIN, END = "<!-- the report of a run, by benchmarks/report_picture.py -->", "<!-- end of the report -->"
NAMES_A_FOLDER = re.compile(r"(?<![\w/%])/\w+")
_COLUMNS = 118
_PICTURE = """<picture>
  <source media="(prefers-color-scheme: dark)" srcset="docs/report-dark.png">
  <img src="docs/report-light.png" alt="A run's report: the answer, limits as fields, loss against memory and speed">
</picture>"""


def read_kept() -> RunReport:
    """The report that the README shows."""
    return RunReport.model_validate_json(gzip.decompress(REPORT.read_bytes()))


def keep(run: str, store: Path) -> None:
    """Without what names folders of the machine."""
    opened = Store(store)
    report = build_report(open_run(opened, run).record, opened, ImageCatalog(ROOT / "images"), quoted=False)
    notes = tuple(note for note in report.provenance.notes if not NAMES_A_FOLDER.search(note))
    provenance = report.provenance.model_copy(update={"notes": notes})
    kept = report.model_copy(update={"results_path": report.run_id, "provenance": provenance})
    REPORT.write_bytes(gzip.compress(kept.model_dump_json().encode(), mtime=0))


def with_answer(readme: str, report: RunReport) -> str:
    """The README with this report's answer, and where it comes from, between its two marks."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    manifest = MANIFEST.relative_to(ROOT).as_posix()
    commit = "" if report.provenance.commit is None else f" at {report.provenance.commit[:12]}"
    source = (
        f"This is the report of a run of [{manifest}]({manifest}) on {report.device}, {report.created:%Y-%m-%d}, by "
        f"version {report.provenance.version}{commit}; `python benchmarks/report_picture.py` draws it."
    )
    answer = "\n".join(f"> {line}" for sentence in recommendations(report) for line in _wrapped(sentence))
    block = "\n\n".join([_PICTURE, answer, "\n".join(_wrapped(source))])
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def _wrapped(text: str) -> list[str]:
    """Lines that break neither a number nor a word."""
    bound = re.sub(r"(?<=\d) (?=\d{3}\b)", "\N{NO-BREAK SPACE}", text)
    lines = textwrap.wrap(bound, _COLUMNS, break_on_hyphens=False)
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def draw(report: RunReport) -> None:
    from playwright.sync_api import sync_playwright  # not at the top: a test of the README draws nothing

    executable = os.environ.get("LLMCBENCH_CHROMIUM") or shutil.which("chromium")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page_file = Path(folder) / "report.html"
        page_file.write_text(render_html(report), encoding="utf-8")
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        for scheme, picture in PICTURES.items():
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=scheme)
            page.goto(page_file.as_uri())
            page.wait_for_selector("html[data-ready]", state="attached")
            page.wait_for_selector("[data-scatter=speed] svg .mark-text.role-mark text")
            end = page.eval_on_selector("[data-scatter=speed]", "plot => plot.getBoundingClientRect().bottom")
            page.screenshot(path=picture, clip={"x": 0, "y": 0, "width": WIDTH, "height": end + MARGIN})
        browser.close()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--run", help="take the report of this run")
    arguments.add_argument("--store", type=Path, default=Path(".llmcbench"))
    asked = arguments.parse_args()
    if asked.run:
        keep(asked.run, asked.store)
    report = read_kept()
    draw(report)
    README.write_text(with_answer(README.read_text("utf-8"), report), encoding="utf-8")


if __name__ == "__main__":
    main()
