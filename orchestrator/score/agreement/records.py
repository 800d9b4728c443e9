"""What `orchestrator agreement` finds out, as documents. Fields are only ever added."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt

from harness.contract import REFERENCE_ENGINE, Dtype, Frozen
from orchestrator.evidence.value import Variant

LogLikelihoods = tuple[float | None, ...]


class ItemDifference(Frozen):
    """An item of which the two engines pick different choices. Log-likelihoods are in nats, one for each choice.

    An engine that gave no finite number picks nothing: None.
    """

    index: NonNegativeInt
    document: str
    group: str | None = None
    gold: NonNegativeInt
    reference_picked: NonNegativeInt | None
    engine_picked: NonNegativeInt | None
    reference_log_likelihoods: LogLikelihoods
    engine_log_likelihoods: LogLikelihoods


class TaskAgreement(Frozen):
    """One task on one checkpoint, by the reference and by `engine`. `reason` says why the two are not compared.

    A pick is that of the task's own metric; a text, which has no choices, has none. Differences are absolute, over
    all `log_likelihoods` that both engines have, in nats: of a whole choice, or of a whole segment or page of a text.
    `largest_difference_index` is the item that the largest belongs to.
    """

    model: str
    variant: Variant
    task: str
    engine: str
    metric: str = ""
    reference_value: float | None = None
    engine_value: float | None = None
    reference_dtype: Dtype | None = None
    engine_dtype: Dtype | None = None
    items: NonNegativeInt = 0
    picks: NonNegativeInt = 0
    identical_picks: NonNegativeInt = 0
    identical_percent: Annotated[float, Field(ge=0, le=100)] | None = None
    log_likelihoods: NonNegativeInt = 0
    mean_difference_nats: NonNegativeFloat | None = None
    largest_difference_nats: NonNegativeFloat | None = None
    largest_difference_index: NonNegativeInt | None = None
    differing: tuple[ItemDifference, ...] = ()
    reason: str | None = None


class RunAgreement(Frozen):
    """Everything of a run that was, or was to be, evaluated by a backend as well as by the reference."""

    schema_version: Literal[1] = 1
    run: str
    reference: str = REFERENCE_ENGINE
    tasks: tuple[TaskAgreement, ...]
