"""The table of tracks in docs/concepts.md: what each is made of, as the program scores it."""

import re

from orchestrator.tracks import Track, expect
from pages.methods import DOCS

_PLACE = re.compile(r"<!-- tracks -->\n.*?<!-- end of tracks -->", re.DOTALL)


def concepts_page() -> str:
    """docs/concepts.md, with its table as it is now."""
    head = ["| track | metric | of | compared with |", "| --- | --- | --- | --- |"]
    table = "\n".join([*head, *map(_row, Track)])
    return _PLACE.sub(
        lambda _: f"<!-- tracks -->\n\n{table}\n\n<!-- end of tracks -->", (DOCS / "concepts.md").read_text("utf-8")
    )


def _row(track: Track) -> str:
    parts = expect(track, ("",)).parts
    contents = "; ".join(f"{part}: {', '.join(f'`{name}`' for name in names)}" for part, names in parts.items())
    against = "the costliest method" if track.is_relative else "dense"
    made_of = contents or "tokens a second by library and batch size"
    return f"| {track.value} {track.title} | {track.metric} | {made_of} | {against} |"
