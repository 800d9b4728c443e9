"""lm-eval's own task definitions over rows that were handed over: nothing is downloaded.

A definition is read from its file in the installed package, since lm-eval's task manager would first read all of them.
"""

import functools
import importlib.metadata
import importlib.util
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.contract import Reason
from harness.errors import BadRequest, Unsupported

Row = dict[str, Any]

_ITEMS, _EXAMPLES = "items", "examples"


class LmEvalQuestions:
    """The questions that the file `definition` makes of `rows`, with the first `shots` of `examples` before each.

    Raises:
        BadRequest: the rows do not fit the definition.
    """

    def __init__(
        self, definition: str, rows: Sequence[Row], *, source: str, shots: int = 0, examples: Sequence[Row] = ()
    ) -> None:
        self.source = source
        self.rows = rows
        self.shots = shots
        with self._explained():
            self.task = load_task(definition, rows, shots=shots, examples=examples)
        self.normalised = "acc_norm" in self.task.aggregation()

    def pairs(self, place: int) -> list[tuple[str, str]]:
        """Context and continuation of each choice."""
        document = self.task.task_docs[place]
        with self._explained(place):
            context = self.task.fewshot_context(document, num_fewshot=self.shots)
            requests = self.task.construct_requests(document, context, metadata=(None, place, 1))
            return [request.args for request in requests]

    def choices(self, place: int) -> list[str]:
        """The text of each choice, as lm-eval measures its length."""
        with self._explained(place):
            return list(self.task.doc_to_choice(self.task.task_docs[place]))

    def lengths(self, place: int) -> list[int] | None:
        """Characters of each choice, where the definition has the metric `acc_norm`; else None."""
        return [len(choice) for choice in self.choices(place)] if self.normalised else None

    def gold(self, place: int) -> int | None:
        """The number of the right choice; None where the row's label names none."""
        document = self.task.task_docs[place]
        with self._explained(place):
            label = self.task.doc_to_text(document) if self.task.multiple_input else self.task.doc_to_target(document)
            return int(label) if 0 <= int(label) < len(self.choices(place)) else None

    def correct(self, place: int, log_likelihoods: Sequence[float]) -> dict[str, float]:
        """Accuracies of one question by lm-eval's own rule, from a finite log-likelihood (nats) of each choice."""
        answers = [(value, False) for value in log_likelihoods]
        found = self.task.process_results(self.task.task_docs[place], answers)
        return {name: float(found[name]) for name in ("acc", "acc_norm") if name in found}

    @contextmanager
    def _explained(self, place: int | None = None) -> Iterator[None]:
        from jinja2 import TemplateError

        try:
            yield
        except (KeyError, ValueError, TypeError, IndexError, AttributeError, TemplateError) as unfit:
            where = "the rows" if place is None else f"row {place} of those"
            raise BadRequest(
                f"{where} of {self.source} do not fit the task's definition: {unfit!r}",
                hint="fetch the data set again; its field names must be those of the Hugging Face hub",
            ) from unfit


def require_version(protocol: str, version: str) -> None:
    """Check that the installed lm-eval is the one that the protocol names.

    Raises:
        Unsupported: it is another one.
    """
    installed = importlib.metadata.version("lm-eval")
    if installed != version:
        raise Unsupported(
            Reason.TASK,
            f"{protocol} is defined by lm-eval {version}, but {installed} is installed",
            hint="install the image's lock, or give the task a new protocol name",
        )


def load_task(definition: str, rows: Sequence[Row], *, shots: int = 0, examples: Sequence[Row] = ()) -> Any:
    """lm-eval's task object over `rows`.

    lm-eval learns from the first document what kind of task it has, and stumbles where one of its choices is empty: a
    copy of the next one that will do is then shown to it first.
    """
    for place, row in enumerate(rows):
        try:
            task = _make_task(definition, [row, *rows] if place else rows, shots=shots, examples=examples)
        except IndexError:
            continue
        task.task_docs = task.task_docs.select(range(len(task.task_docs) - len(rows), len(task.task_docs)))
        return task
    raise IndexError("every row has an empty choice")


def _make_task(definition: str, rows: Sequence[Row], *, shots: int, examples: Sequence[Row]) -> Any:
    import datasets  # type: ignore[import-untyped]
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    datasets.disable_progress_bars()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    _compile_templates_once()
    configuration = load_yaml(tasks_folder() / definition)
    for structural in ("tag", "group", "task_list"):
        configuration.pop(structural, None)
    content = {_ITEMS: datasets.Dataset.from_list(list(rows))}
    if shots:
        content[_EXAMPLES] = datasets.Dataset.from_list(list(examples))
    splits = {"training_split": None, "validation_split": None, "test_split": _ITEMS}
    splits["fewshot_split"] = _EXAMPLES if shots else None
    data = {"custom_dataset": lambda **_: content, "num_fewshot": shots}
    return ConfigurableTask(config={**configuration, **splits, **data})


def tasks_folder() -> Path:
    """Where the installed lm-eval keeps its task definitions.

    Raises:
        Unsupported: it is not installed.
    """
    package = importlib.util.find_spec("lm_eval")
    if package is None or package.origin is None:
        raise Unsupported(Reason.TASK, "lm-eval is not installed", hint="install the image's lock")
    return Path(package.origin).parent / "tasks"


def _compile_templates_once() -> None:
    """lm-eval compiles a template again for every row, which takes longer than to tokenise the row."""
    from lm_eval.utils import env

    if not hasattr(env.from_string, "cache_info"):
        env.from_string = functools.lru_cache(maxsize=256)(env.from_string)
