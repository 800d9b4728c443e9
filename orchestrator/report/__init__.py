"""A run's report: the data (`RunReport`), and the ways to show it. The data hold no presentation, and the renderers
compute no score.

Not covered: reading stored results, which makes a `RunReport`; comparing two variants item by item.
"""

from orchestrator.report.model import (
    ImageEntry,
    ModelEntry,
    Provenance,
    RunReport,
    StageEntry,
    VariantEntry,
)
from orchestrator.report.pages import render_html, render_markdown
from orchestrator.report.terminal import plain_text, summary_table, summary_text

__all__ = [
    "ImageEntry",
    "ModelEntry",
    "Provenance",
    "RunReport",
    "StageEntry",
    "VariantEntry",
    "plain_text",
    "render_html",
    "render_markdown",
    "summary_table",
    "summary_text",
]
