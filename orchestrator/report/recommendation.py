"""What `orchestrator recommend` prints: one sentence a model, then what it rests on."""

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import RenderableType
from rich.text import Text

from orchestrator.decide.answer import AmountEntry, Answer, CandidateEntry, Choice, Decision, ForNothing
from orchestrator.decide.limits import Standing, Verdict
from orchestrator.evidence.value import Variant
from orchestrator.manifest.deciding import DecideEntry, Quantity
from orchestrator.report.candidates import amounts_table, standing_table
from orchestrator.report.formats import count_text, interval_text, plural, value_text
from orchestrator.report.model import RunReport
from orchestrator.report.table import Footnotes
from orchestrator.report.terminal import plain_text, rich_table

_BESIDE = {Quantity.MEMORY: " of memory", Quantity.DISK: " on disk", Quantity.SPEED: ""}
_MOST_LABELS = 4
_EVEN = 0.5
_READING = (
    "Loss: 1 less the mean accuracy over dense's, paired item by item. Utility: weighted doublings over dense. Pareto: "
    "how surely nothing else is as good in all and better in one. Those of one group cannot be told apart by the "
    "utility. See docs/deciding.md."
)


def recommendation(answer: Answer, asked: DecideEntry) -> str:
    """One sentence: what to use and why, or why nothing can be recommended."""
    chosen = answer.chosen
    if chosen is None:
        within = _certainly_within(answer)
        beside = f"; certainly within the loss of {asked.max_loss}: {within}" if within else ""
        return f"Nothing can be recommended for {answer.model}: {answer.why_none}{beside}."
    if chosen.choice.variant.is_dense:
        through = f" through {chosen.choice.backend}" if chosen.choice.backend else ""
        return f"Keep {answer.model} dense{through}: {_why_dense(answer)}."
    remarks = [*_for_nothing(answer), *_alike(answer), *chosen.remarks]
    return (
        f"Use {chosen.choice.label} for {answer.model}: {_loses(chosen, answer, asked)}, and {_brings(answer, chosen)}"
        f"{''.join(f'; {remark}' for remark in remarks)}."
    )


def recommendations(report: RunReport) -> list[str]:
    """A sentence for each model, or the one that says why there is none."""
    if report.decision is None:
        return [f"Nothing is recommended: {report.decision_absent}."] if report.decision_absent else []
    return [recommendation(answer, report.decision.asked) for answer in report.decision.answers]


def recommendation_blocks(decision: Decision) -> list[RenderableType]:
    """Every model's sentence first; then, for each, the limits, what was measured, the ranking and what is open."""
    blocks: list[RenderableType] = [
        plain_text(recommendation(answer, decision.asked), style="bold") for answer in decision.answers
    ]
    blocks += [plain_text(f"Limits: {limits_text(decision.asked)}. {_preference_text(decision.asked)}", style="dim")]
    for answer in decision.answers:
        footnotes = Footnotes()
        tables = [amounts_table(answer, footnotes), standing_table(answer, footnotes)]
        blocks += [rich_table(table, box.ROUNDED) for table in tables if table.rows]
        blocks += [plain_text(f"[{number}] {reason}") for number, reason in footnotes.entries]
        blocks += [plain_text(_measure_text(answer), style="dim")]
        if answer.open:
            blocks += [Text(), plain_text("Not known, and could change the answer", style="bold")]
            blocks += [plain_text(f"- {line}") for line in open_lines(answer)]
    return [*blocks, plain_text(_READING, style="dim")]


def limits_text(asked: DecideEntry) -> str:
    """For instance `a loss of at most 2%, memory of at most 16GiB`."""
    most = {"memory": asked.max_memory, "disk": asked.max_disk, "a time to compress": asked.max_compress_time}
    texts = [f"a loss of at most {asked.max_loss}" if Quantity.LOSS in asked.limits else "any loss"]
    texts += [f"{name} of at most {limit}" for name, limit in most.items() if limit is not None]
    return ", ".join([*texts, *([] if asked.min_speed is None else [f"at least {asked.min_speed}"])])


def _preference_text(asked: DecideEntry) -> str:
    weights = ", ".join(f"{quantity.value} {weight:g}" for quantity, weight in asked.prefer.items() if weight)
    return f"Preferred by weight: {weights}."


def _certainly_within(answer: Answer) -> str:
    return ", ".join(
        dict.fromkeys(
            entry.choice.variant.label
            for entry in answer.candidates
            if not entry.choice.variant.is_dense
            and (limit := entry.limit(Quantity.LOSS)) is not None
            and limit.verdict is Verdict.KEPT
        )
    )


def _loses(entry: CandidateEntry, answer: Answer, asked: DecideEntry) -> str:
    amount = entry.amount(Quantity.LOSS)
    if amount is None:
        return "what it loses is not known"
    of = "by perplexity" if answer.loss.by_perplexity else "of dense's accuracy"
    return (
        f"it loses {_amount_text(amount)} {of} over {', '.join(answer.loss.tasks)}, certainly at most {asked.max_loss}"
    )


def _amount_text(amount: AmountEntry) -> str:
    text = value_text(amount.value, amount.unit)
    return text if amount.interval is None else f"{text} {interval_text(amount.interval, amount.unit)}"


def _brings(answer: Answer, chosen: CandidateEntry) -> str:
    """What is beside dense's; and the time, which dense has none of."""
    dense = next(
        (
            one
            for one in answer.candidates
            if one.choice.variant.is_dense and one.choice.backend == chosen.choice.backend
        ),
        None,
    )
    texts = []
    for quantity, words in _BESIDE.items():
        amount = chosen.amount(quantity)
        if amount is not None:
            reference = None if dense is None else dense.amount(quantity)
            beside = [] if reference is None else [f"dense {value_text(reference.value, reference.unit)}"]
            texts.append(f"{_amount_text(amount)}{words}{_in_brackets([*beside, *_once(amount)])}")
    time = chosen.amount(Quantity.TIME)
    texts += [] if time is None else [f"{_amount_text(time)} to compress{_in_brackets(_once(time))}"]
    return "it has " + ", ".join(texts)


def _in_brackets(texts: Sequence[str]) -> str:
    return f" ({', '.join(texts)})" if texts else ""


def _once(amount: AmountEntry) -> list[str]:
    return ["measured once"] if amount.interval is None and not amount.exact else []


def _for_nothing(answer: Answer) -> Iterator[str]:
    for one in answer.for_nothing:
        if one.as_good:
            says = "loses less" if one.interval is not None and one.interval.high < 0 else "may lose no more"
            yield f"{one.variant.label}, which needs no calibration, {says} ({_apart(one)})"
        elif one.as_good is None:
            label = one.variant.label
            yield f"whether it loses less than {label}, which needs no calibration, is not known: {one.reason}"


def _apart(one: ForNothing) -> str:
    assert one.difference is not None and one.interval is not None  # noqa: S101  known where `as_good` is
    return f"its loss less this one's: {100 * one.difference:+.2f} points {interval_text(one.interval, 'fraction')}"


def _alike(answer: Answer) -> Iterator[str]:
    if answer.alike:
        through = answer.recommended.backend if answer.recommended is not None else None
        labels = [one.variant.label if one.backend == through else one.label for one in answer.alike]
        yield f"{_cut(labels)} cannot be told apart from it by this preference"


_NO_BETTER = "not certainly better by this preference"


def _why_dense(answer: Answer) -> str:
    """How many of the compressed variants stand where, each as well as it does through any backend."""
    best: dict[Variant, CandidateEntry] = {}
    for one in answer.candidates:
        held = best.get(one.choice.variant)
        if not one.choice.variant.is_dense and (held is None or _HOPE[one.standing] < _HOPE[held.standing]):
            best[one.choice.variant] = one
    if not best:
        return "nothing was compressed"
    parts = []
    for standing, says in (
        (Standing.EXCLUDED, ("certainly breaks a limit", "certainly break a limit")),
        (Standing.OPEN, ("is not certain to keep the limits", "are not certain to keep the limits")),
        (Standing.ADMITTED, (f"keeps the limits and is {_NO_BETTER}", f"keep the limits and are {_NO_BETTER}")),
    ):
        found = [one for one in best.values() if one.standing is standing]
        if found:
            reason = _common_reason(found)
            labels = _cut([one.choice.variant.label for one in found])
            parts.append(f"{len(found)} {says[len(found) > 1]} ({labels}){reason}")
    told = f"of {plural(len(best), 'compressed variant')} {', '.join(parts)}"
    needed = [
        (one.items_needed, one.choice.variant.label)
        for one in best.values()
        if one.standing is Standing.OPEN and one.items_needed is not None and _seems_within(one)
    ]
    if not needed:
        return told
    count, label = min(needed)
    scored = count_text(answer.loss.items)
    return f"{told}; of {label} about {count_text(count)} items would tell, of which {scored} were scored"


def _seems_within(entry: CandidateEntry) -> bool:
    limit = entry.limit(Quantity.LOSS)
    return limit is not None and limit.probability is not None and limit.probability > _EVEN


_HOPE = {Standing.ADMITTED: 0, Standing.OPEN: 1, Standing.EXCLUDED: 2}


def _common_reason(entries: Sequence[CandidateEntry]) -> str:
    """Why none of them has a loss, where that is one reason."""
    limits = [one.limit(Quantity.LOSS) for one in entries]
    reasons = {one.reason for one in limits if one is not None and one.verdict is Verdict.NOT_MEASURED}
    return f", since {reasons.pop()}" if len(reasons) == 1 and None not in reasons else ""


def _cut(labels: Sequence[str]) -> str:
    more = len(labels) - _MOST_LABELS
    return ", ".join([*labels[:_MOST_LABELS], *([f"{more} more"] if more > 0 else [])])


def _measure_text(answer: Answer) -> str:
    loss = answer.loss
    if not loss.tasks:
        return f"The loss of {answer.model} is not known: no task was evaluated that could show one."
    what = "mean ratio of perplexities" if loss.by_perplexity else "unweighted mean accuracy"
    text = f"Loss of {answer.model}: {what} over {', '.join(loss.tasks)}, {count_text(loss.items)} items."
    if loss.guessing is not None:
        text += f" Guessing would lose {loss.guessing:.0%}.".replace("%", " %")
    return text if answer.batch is None else f"{text} Speed at batch {answer.batch}."


def open_lines(answer: Answer) -> Iterator[str]:
    """What is not known and could change the answer."""
    reasons: dict[str, list[Choice]] = {}
    for point in answer.open:
        reasons.setdefault(point.reason, []).extend([] if point.choice is None else [point.choice])
    for reason, choices in reasons.items():
        yield f"{reason} ({_cut([one.label for one in choices])})" if choices else reason
