"""What `orchestrator race` prints below an answer: how it was come to, what is open, and what that saved."""

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from orchestrator.decide.answer import Decision, ModelRace, Spent
from orchestrator.race.wording import labels, look_text, share_text
from orchestrator.report.formats import count_text, plural
from orchestrator.report.terminal import plain_text
from orchestrator.run.progress.wording import duration


def race_blocks(decision: Decision) -> list[RenderableType]:
    """Nothing of a decision that no race led to."""
    if decision.race is None:
        return []
    lines = [line for one in decision.race.models for line in _model_lines(one)]
    return [Text(), plain_text("The race", style="bold"), *map(plain_text, (*lines, spent_text(decision.race.spent)))]


def _model_lines(raced: ModelRace) -> Iterator[str]:
    if raced.by_costs:
        yield f"{raced.model}: not scored, by their costs: {labels(raced.by_costs)}."
    for one in raced.without:
        yield f"{raced.model}: {one.variant.label} could not be scored: {one.reason}."
    for look in raced.looks:
        yield f"{raced.model}: {look_text(look)}."
    if not raced.decided:
        left = labels(raced.left) or "nothing that was scored"
        yield f"{raced.model}: not decided; all items may still recommend: {left}. The same command goes on."


def spent_text(spent: Spent) -> str:
    """The savings: what was measured is said to be so, and so is what is an estimate."""
    share = f" ({share_text(spent.evaluations / spent.evaluations_of_all)})" if spent.evaluations_of_all else ""
    items = (
        f"It scored {count_text(spent.evaluations)} of the {count_text(spent.evaluations_of_all)} items times variants"
        f" of the whole manifest{share}, in these tasks."
        if spent.evaluations_of_all
        else "It scored no item."
    )
    time = f"Its stages took {duration(spent.seconds)}; all of the manifest's would take about"
    time += f" {duration(spent.seconds_of_all)}, by an estimate from these"
    if spent.not_estimated:
        time += (
            f", without {plural(len(spent.not_estimated), 'stage')} of which nothing tells ({spent.not_estimated[0]}"
        )
        time += ", …)" if len(spent.not_estimated) > 1 else ")"
    return f"{items} {time}."
