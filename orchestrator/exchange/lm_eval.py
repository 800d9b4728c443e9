"""What lm-evaluation-harness's results file holds, as far as it is written here.

The form is that of lm-eval 0.4.13, whose `result_schema.py` calls every field of it optional: what is not known is left
out. `llmcbench` is a field of this project's own, which lm-eval's readers pass over.
"""

from typing import Literal

from pydantic import ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from harness.contract import Frozen

NO_FILTER = "none"
"""The filter of answers that are taken as the model gave them."""
STDERR = "_stderr"

Metrics = dict[str, str | int | float]
"""`name` and `alias` of a task, `sample_len`, and figures by `metric,filter`; a standard error is a figure as well."""


class TaskConfig(Frozen):
    """`metadata` names the protocol, and with it everything that lm-eval's own configuration would spell out."""

    task: str
    dataset_path: str | None = None
    test_split: str | None = None
    output_type: Literal["multiple_choice", "loglikelihood_rolling"] | None = None
    num_fewshot: NonNegativeInt | None = None
    metadata: dict[str, str]


class SampleCount(Frozen):
    """`original` items are in the split, `effective` ones of them were asked."""

    original: PositiveInt
    effective: PositiveInt


class EvalConfig(Frozen):
    """`model` is the engine. `model_args` say what was evaluated; its `model` is the name of the files' folder."""

    model: str
    model_args: dict[str, str]
    model_num_parameters: PositiveInt | None = None
    model_dtype: str | None = None
    device: str
    limit: PositiveInt | None = None
    bootstrap_iters: Literal[0] = 0


class Own(Frozen):
    """What lm-eval's form has no field for. `stages` are the keys of the results by task, `notes` the workers' remarks,
    `excluded` counts items without an outcome by reason; `withheld` says why a figure is in no score of ours, `absent`
    which fields of the form are left out or hold less than lm-eval's own."""

    schema_version: Literal[1] = 1
    run: str
    version: str | None = None
    device_model: str
    stages: dict[str, str]
    engine: str
    notes: dict[str, tuple[str, ...]] = {}
    excluded: dict[str, dict[str, NonNegativeInt]] = {}
    withheld: dict[str, str] = {}
    absent: tuple[str, ...]


class ResultsDocument(Frozen):
    """`date` counts the seconds since 1970 at which the first evaluation began."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True, populate_by_name=True)

    results: dict[str, Metrics]
    groups: dict[str, Metrics] | None = None
    group_subtasks: dict[str, tuple[str, ...]] = {}
    configs: dict[str, TaskConfig]
    versions: dict[str, str]
    n_shot: dict[str, NonNegativeInt] = Field(alias="n-shot")
    higher_is_better: dict[str, dict[str, bool]]
    n_samples: dict[str, SampleCount] = Field(alias="n-samples")
    config: EvalConfig
    git_hash: str | None = None
    date: NonNegativeFloat
    transformers_version: str | None = None
    lm_eval_version: str | None = None
    model_source: str
    model_name: str
    model_name_sanitized: str
    total_evaluation_time_seconds: str
    llmcbench: Own
