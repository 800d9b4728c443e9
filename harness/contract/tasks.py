"""The tasks that the harness evaluates: one YAML file each, which is all that is said of a task.

The worker prepares a task by its definition; the orchestrator plans and reports by the same one.
"""

from functools import lru_cache
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, TypeAdapter

from harness.contract.base import Frozen, digest_of
from harness.contract.image import TaskDescription
from harness.contract.source import harness_folder

TASKS_FOLDER = harness_folder() / "evaluation" / "tasks"


class _Task(Frozen):
    """`protocol` names how the figure is computed. `track` is the one that the figure belongs to.

    `splits` names the splits of the data set that the task reads.
    """

    name: str
    protocol: str
    dataset: str
    track: int = Field(ge=1, le=6)


class _LmEvalTask(_Task):
    """A task whose prompts are lm-eval's own; paths of definitions are below its `tasks` folder."""

    lm_eval_version: str


class ChoiceTask(_LmEvalTask):
    """Multiple choice as the file `definition` defines it.

    With `group_by`, a field of the rows, the data set is several tasks in one: each value has a definition of its own,
    whose path is `definition` with the value in place of `{group}`. The `shots` examples are the first ones of
    `shots_split`, within the group.
    """

    kind: Literal["choice"]
    split: str
    metric: Literal["acc", "acc_norm"]
    definition: str
    group_by: str | None = None
    shots: NonNegativeInt = 0
    shots_split: str | None = None

    @property
    def splits(self) -> tuple[str, ...]:
        return (self.split,) if self.shots_split is None else (self.split, self.shots_split)


class AttackedTask(_LmEvalTask):
    """Multiple choice over attacked texts: each split has the definition that `parts` gives it.

    A row that also has a field's text from before the attack, in a field called as that one with `original_prefix`, is
    scored on it as well.
    """

    kind: Literal["attacked"]
    metric: Literal["acc"]
    parts: dict[str, str]
    original_prefix: str

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.parts)


class TruthTask(_LmEvalTask):
    """TruthfulQA's two multiple-choice scores in one pass: the prompts of both definitions are the same."""

    kind: Literal["truth"]
    split: str
    metric: Literal["mc1", "mc2"]
    mc1_definition: str
    mc2_definition: str

    @property
    def splits(self) -> tuple[str, ...]:
        return (self.split,)


class AnswersTask(_LmEvalTask):
    """TruthfulQA's two multiple-choice scores over the lists of answers in its CSV, as the paper's code takes them.

    Of `definition` the prompt alone counts. The first `left_out_tokens` tokens after the question count in no answer.
    """

    kind: Literal["answers"]
    split: str
    metric: Literal["mc1", "mc2"]
    definition: str
    left_out_tokens: PositiveInt

    @property
    def splits(self) -> tuple[str, ...]:
        return (self.split,)


class LetterPart(Frozen):
    """One split's prompt, a Jinja template over a row's fields, and the letter that answers each label, in order.

    `group_by` names the field that groups the rows; None makes the split itself a group.
    """

    template: str
    label: str
    letters: tuple[str, ...]
    group_by: str | None = None


class LetterTask(_Task):
    """The likeliest of a few letters as the next token after a prompt of this project's own wording, without examples.

    `original_prefix` is that of `AttackedTask`.
    """

    kind: Literal["letter"]
    metric: Literal["acc"]
    parts: dict[str, LetterPart]
    original_prefix: str | None = None

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.parts)

    @property
    def template_sha256(self) -> str:
        """sha256 of all that makes the prompts and names the answers."""
        return digest_of({split: part.model_dump(mode="json") for split, part in self.parts.items()})


BEGINNING_ARCHITECTURES = (
    "GemmaForCausalLM",
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "Gemma3nForCausalLM",
    "Gemma4ForCausalLM",
    "VaultGemmaForCausalLM",
)
"""Models that make little of a text that their beginning token does not precede, and of which no figure is published
without it: their perplexities have it before every segment. Llama, Mistral, OPT and GLM have one as well, lose little
without, and are published by the code of GPTQ, which puts it before the first segment only."""


class PerplexityTask(_Task):
    """Perplexity over segments of `sequence_length` tokens; None makes a segment as long as the model's context.

    `beginning` says what the tokenizer's beginning token stands before: the `text`, and so the first segment alone, or
    each `segment`, as one of its tokens. A task of the latter kind takes the place of the one that it `stands_for`, in
    manifests that ask for that one, for models of `BEGINNING_ARCHITECTURES`.

    The text is that of the rows' `text_field`. `distinct` takes each text once and no blank one, for rows that share
    their texts.
    """

    kind: Literal["perplexity"]
    split: str
    metric: Literal["perplexity"]
    sequence_length: PositiveInt | None
    text_field: str = "text"
    distinct: bool = False
    beginning: Literal["text", "segment"] = "text"
    stands_for: str | None = None

    @property
    def splits(self) -> tuple[str, ...]:
        return (self.split,)


class WordPerplexityTask(_LmEvalTask):
    """Perplexity by word and byte over whole pages, in lm-eval's rolling windows."""

    kind: Literal["word_perplexity"]
    split: str
    metric: Literal["word_perplexity", "byte_perplexity", "bits_per_byte"]
    definition: str

    @property
    def splits(self) -> tuple[str, ...]:
        return (self.split,)


Task = ChoiceTask | AttackedTask | TruthTask | AnswersTask | LetterTask | PerplexityTask | WordPerplexityTask
_TASK: TypeAdapter[Task] = TypeAdapter(Annotated[Task, Field(discriminator="kind")])


def load_tasks() -> dict[str, Task]:
    """Every task by its name.

    Raises:
        ValueError: a file is not YAML, or not the definition of a task.
    """
    return {name: load_task(name) for name in task_names()}


def load_task(name: str) -> Task:
    """One of `task_names`. No other task's file is read, so that none decides what this one gives.

    Raises:
        ValueError: its file is not YAML, or not the definition of a task.
    """
    path = TASKS_FOLDER / f"{name}.yaml"
    try:
        return _parsed(path.read_text(encoding="utf-8"))
    except ValueError as invalid:
        raise ValueError(f"{path} is not the definition of a task: {invalid}") from invalid


@lru_cache(maxsize=128)
def _parsed(text: str) -> Task:
    import yaml  # not at the top: a worker that evaluates nothing need not have it

    try:
        # libyaml's parser, where PyYAML was built with it, reads the same in a seventh of the time.
        return _TASK.validate_python(yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))  # noqa: S506  both are safe
    except yaml.YAMLError as broken:
        raise ValueError(str(broken)) from broken


def task_names() -> list[str]:
    """The names of all tasks, which are those of their files."""
    return sorted(path.stem for path in TASKS_FOLDER.glob("*.yaml"))


def describe_task(task: Task) -> TaskDescription:
    """What a plan and a report need to know of a task."""
    return TaskDescription(
        name=task.name,
        dataset=task.dataset,
        splits=task.splits,
        protocol=task.protocol,
        metric=task.metric,
        higher_is_better=not isinstance(task, PerplexityTask | WordPerplexityTask),
        track=task.track,
        stands_for=task.stands_for if isinstance(task, PerplexityTask) else None,
        architectures=BEGINNING_ARCHITECTURES if isinstance(task, PerplexityTask) and task.stands_for else (),
    )
