"""Items of which compressed models pick another choice than the dense one, as tables."""

from collections.abc import Sequence

from orchestrator.report.formats import count_text
from orchestrator.report.table import Cell, Table, cells, columns
from orchestrator.score.differing import MOST_OF_RUN, MOST_OF_TASK, DifferingItem, TaskDifferences
from orchestrator.score.questions import MOST_CHARACTERS, MOST_OF_A_CHOICE

READING = (
    "An item is here where at least one compressed variant picks another choice than dense. First come those that most "
    "variants get right or wrong otherwise, then those that most pick otherwise, then by number; at most "
    f"{MOST_OF_TASK} of a task of a model, and {MOST_OF_RUN} in all. Choices are numbered from 0, as in the stored "
    f"outcomes. Questions are cut after {MOST_CHARACTERS} characters, choices after {MOST_OF_A_CHOICE}; they are "
    "quoted from the data sets named below, and stand under their licences. They are left out with "
    "orchestrator report --no-questions."
)


def differing_title(tasks: Sequence[TaskDifferences]) -> str:
    shown, differing = sum(len(one.shown) for one in tasks), sum(one.differing for one in tasks)
    return f"Items picked otherwise than by dense: {count_text(shown)} of {count_text(differing)} are shown"


def differing_tables(tasks: Sequence[TaskDifferences]) -> tuple[Table, ...]:
    """The items, then how many there are of each task, and where their questions are from; those with any row."""
    engines = {one.engine for one in tasks}
    tables = (_items(tasks, several_engines=len(engines) > 1), _counts(tasks))
    return tuple(table for table in tables if table.rows)


def _items(tasks: Sequence[TaskDifferences], *, several_engines: bool) -> Table:
    rows = tuple(
        (
            *cells(one.model, f"{one.task} by {one.engine}" if several_engines else one.task, str(item.item)),
            Cell(_question(one, item)),
            *cells(_choice(item, item.right), _choice(item, item.dense), _others(one, item)),
        )
        for one in tasks
        for item in one.shown
    )
    titles = columns("Model", "Task", "Item", "Question", "Right", "Dense picks", "Others pick")
    return Table("Items picked otherwise than by dense", titles, rows, headings=3)


def _question(one: TaskDifferences, item: DifferingItem) -> str:
    if item.question is not None:
        return item.question
    return f"not quoted: {one.not_quoted or 'the data set in the store has not this row'}"


def _choice(item: DifferingItem, number: int) -> str:
    return f"{number}: {item.choices[number]}" if number < len(item.choices) else str(number)


def _others(one: TaskDifferences, item: DifferingItem) -> str:
    """For instance `1: the moon (2 of 3: wanda 50%, magnitude 50%)`; all others pick as dense does."""
    return "; ".join(
        f"{_choice(item, other.choice)} ({len(other.variants)} of {one.variants}: "
        f"{', '.join(variant.label for variant in other.variants)})"
        for other in item.others
    )


def _counts(tasks: Sequence[TaskDifferences]) -> Table:
    rows = tuple(
        (
            *cells(one.model, one.task, one.engine, _source(one)),
            *cells(str(one.variants), *map(count_text, (one.items, one.differing, len(one.shown)))),
        )
        for one in tasks
    )
    numbers = ("Variants", "Items", "Picked otherwise", "Shown")
    return Table(
        "Of each task", columns("Model", "Task", "Engine", "Questions from", numbers=numbers), rows, headings=3
    )


def _source(one: TaskDifferences) -> str:
    if one.not_quoted is not None:
        return f"not quoted: {one.not_quoted}"
    if not one.shown:
        return ""
    place = "" if one.repository is None else f" ({one.repository} on the Hub)"
    return f"{one.dataset}{place}, rows from {one.origin}; licence: {one.licence or 'see its authors'}"
