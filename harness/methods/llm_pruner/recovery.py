"""Recovery after structured pruning: low-rank adapters trained on instructions, then merged (LLM-Pruner, section 3.3).

The defaults are those of the authors' README for their training program. The whole pruned model is on the device. On a
GPU the training runs in the checkpoint's dtype, with the adapters in float32 (and the loss scaled for float16).
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn.functional import cross_entropy

from harness.architectures.blocks import linears_of
from harness.contract import Frozen
from harness.errors import BadRequest
from harness.methods.base import CompressionContext
from harness.methods.llm_pruner.lora import Adapters
from harness.methods.llm_pruner.recovery_rows import IGNORED, Example, Examples, collate, read_examples
from harness.methods.llm_pruner.recovery_state import TrainingState, load_state, save_state
from harness.models.loading import TORCH_DTYPES
from harness.telemetry import Stopwatch

INPUT = "recovery"
_SAVE_SECONDS = 60.0
_CLIP_NORM = 1.0


class RecoveryOptions(Frozen):
    """`recovery: auto` trains where the request has the input `recovery`. Evaluation is every so many steps."""

    recovery: bool | Literal["auto"] = "auto"
    recovery_epochs: PositiveInt = 2
    recovery_learning_rate: PositiveFloat = 1e-4
    recovery_batch_size: PositiveInt = 64
    recovery_micro_batch_size: PositiveInt = 4
    recovery_warmup_steps: NonNegativeInt = 100
    recovery_cutoff_tokens: PositiveInt = 256
    recovery_validation_rows: PositiveInt = 2000
    recovery_evaluation_steps: PositiveInt = 200
    lora_rank: PositiveInt = 8
    lora_alpha: PositiveFloat = 16.0
    lora_dropout: float = Field(default=0.05, ge=0, lt=1)


@dataclass(frozen=True)
class Recovery:
    """`seconds` is None where nothing was trained."""

    seconds: float | None
    notes: tuple[str, ...]


def recover(context: CompressionContext, options: RecoveryOptions, seed: int) -> Recovery:
    """Train the pruned model in place, if it was asked for.

    Raises:
        BadRequest: it was asked for without data, or the data cannot be trained on.
    """
    folder = context.inputs.get(INPUT)
    if options.recovery is False:
        return Recovery(None, ("recovery: none, as asked",))
    if folder is None:
        if options.recovery is True:
            raise BadRequest(
                "recovery was asked for, but the request has no data set to train on",
                hint="name one in the manifest, such as `recovery: alpaca` beside the method",
            )
        return Recovery(None, ("recovery: none, since no data set was given; the authors train after pruning",))
    with Stopwatch(context.device) as watch:
        examples = read_examples(
            folder,
            context.tokenizer,
            cutoff=options.recovery_cutoff_tokens,
            validation_rows=options.recovery_validation_rows,
            seed=seed,
        )
        with _on_device(context):
            notes = _Training(context, options, examples, seed).run()
    return Recovery(watch.seconds, notes)


@contextmanager
def _on_device(context: CompressionContext) -> Iterator[None]:
    """The whole model on the device, and back in host memory afterwards."""
    home = next(context.model.parameters()).device
    torch.nn.Module.to(context.model, context.device)
    try:
        yield
    finally:
        torch.nn.Module.to(context.model, home)


class _Training:
    """One training. Its order and its dropout follow from the seed and the step, so that it can go on anywhere."""

    def __init__(self, context: CompressionContext, options: RecoveryOptions, examples: Examples, seed: int) -> None:
        self._context = context
        self._options = options
        self._examples = examples
        self._seed = seed
        self._adapters = Adapters(
            linears_of(context.blocks), options.lora_rank, options.lora_alpha, options.lora_dropout, seed
        ).to(context.device)
        self._optimiser = torch.optim.AdamW(
            self._adapters.parameters(), lr=options.recovery_learning_rate, weight_decay=0.0
        )
        self._dtype = TORCH_DTYPES[context.storage_dtype]
        cuda = context.device.type == "cuda"
        self._scaler = torch.amp.GradScaler(context.device.type, enabled=cuda and self._dtype == torch.float16)
        self._autocast = cuda and self._dtype != torch.float32
        self._state = TrainingState()

    def run(self) -> tuple[str, ...]:
        """Train, take the adapters that did best on the held-out rows, and merge them."""
        steps_an_epoch = -(-len(self._examples.training) // self._options.recovery_batch_size)
        total = steps_an_epoch * self._options.recovery_epochs
        begun = self._take_up()
        saved = time.monotonic()
        self._context.reporter.progress(begun, total, "recovery step")
        with self._adapters.attached():
            for step in range(begun, total):
                self._train(step, total, self._batch(step, steps_an_epoch))
                self._state.step = step + 1
                if self._state.step % self._options.recovery_evaluation_steps == 0 or self._state.step == total:
                    self._evaluate()
                if time.monotonic() - saved >= _SAVE_SECONDS:
                    self._save()
                    saved = time.monotonic()
                self._context.reporter.progress(self._state.step, total, "recovery step")
        self._adapters.set_values(self._state.best)
        self._adapters.merge(self._dtype)
        return self._notes(begun, total)

    def _batch(self, step: int, steps_an_epoch: int) -> list[Example]:
        epoch, place = divmod(step, steps_an_epoch)
        rows = self._examples.training
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(_mixed(self._seed, epoch)))
        size = self._options.recovery_batch_size
        return [rows[index] for index in order[place * size : (place + 1) * size].tolist()]

    def _train(self, step: int, total: int, batch: Sequence[Example]) -> None:
        for group in self._optimiser.param_groups:
            group["lr"] = self._options.recovery_learning_rate * _schedule(step, total, self._warmup(total))
        learnt = sum(one.learnt for one in batch)
        self._adapters.train()
        devices = [self._context.device] if self._context.device.type == "cuda" else []
        with torch.enable_grad(), torch.random.fork_rng(devices=devices):
            torch.manual_seed(_mixed(self._seed, total + step))
            for micro in _chunks(batch, self._options.recovery_micro_batch_size):
                torch.autograd.backward(self._scaler.scale(self._loss_sum(micro) / learnt))
        self._scaler.unscale_(self._optimiser)
        torch.nn.utils.clip_grad_norm_(self._adapters.parameters(), _CLIP_NORM)
        self._scaler.step(self._optimiser)
        self._scaler.update()
        self._optimiser.zero_grad()

    def _warmup(self, total: int) -> int:
        """The steps asked for, but at most a tenth of a short training."""
        return min(self._options.recovery_warmup_steps, total // 10)

    def _loss_sum(self, examples: Sequence[Example]) -> Tensor:
        tokens, labels = collate(examples, self._context.device)
        model: Any = self._context.model
        with torch.autocast(self._context.device.type, dtype=self._dtype, enabled=self._autocast):
            logits = model(input_ids=tokens, use_cache=False).logits
        flat = logits[:, :-1].flatten(0, 1).float()
        return cross_entropy(flat, labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum")

    @torch.no_grad()
    def _evaluate(self) -> None:
        self._adapters.eval()
        rows = self._examples.validation
        sums = [self._loss_sum(chunk).detach() for chunk in _chunks(rows, self._options.recovery_micro_batch_size)]
        loss = float(torch.stack(sums).double().sum()) / sum(one.learnt for one in rows)
        if not math.isfinite(loss):
            raise BadRequest(
                f"the recovery's loss on the held-out rows is not finite after {self._state.step} steps",
                hint="lower recovery_learning_rate, or see whether the pruned model still computes finite numbers",
            )
        if self._state.best_loss is None or loss < self._state.best_loss:
            self._state.best_loss, self._state.best_step = loss, self._state.step
            self._state.best = {name: value.clone() for name, value in self._adapters.values().items()}

    def _take_up(self) -> int:
        """Go on from an interrupted attempt, if there is one; returns the steps that are done."""
        state = load_state(self._context.finished.folder, self._examples.digest)
        if state is None:
            return 0
        device = self._context.device
        self._adapters.set_values(state.adapters)
        for name, parameter in zip(self._adapters.values(), self._adapters.parameters(), strict=True):
            self._optimiser.state[parameter] = {
                "step": torch.tensor(float(state.optimiser_step)),
                "exp_avg": state.first_moments[name].to(device),
                "exp_avg_sq": state.second_moments[name].to(device),
            }
        self._scaler.load_state_dict(state.scaler)
        state.best = {name: value.to(device) for name, value in state.best.items()}
        self._state = state
        return state.step

    def _save(self) -> None:
        moments = [self._optimiser.state.get(parameter, {}) for parameter in self._adapters.parameters()]
        if not all(moments):
            return  # the loss scaler has skipped every step so far
        names = list(self._adapters.values())
        state = self._state
        state.optimiser_step = int(moments[0]["step"])
        state.scaler = self._scaler.state_dict()
        state.adapters = self._adapters.values()
        state.first_moments = {name: one["exp_avg"] for name, one in zip(names, moments, strict=True)}
        state.second_moments = {name: one["exp_avg_sq"] for name, one in zip(names, moments, strict=True)}
        save_state(self._context.finished.folder, state, self._examples.digest)

    def _notes(self, begun: int, total: int) -> tuple[str, ...]:
        examples, options = self._examples, self._options
        said = [
            f"recovery: rank-{options.lora_rank} adapters trained on {len(examples.training)} rows of {examples.name}, "
            f"{options.recovery_epochs} epochs, {total} steps; the best on {len(examples.validation)} held-out rows, "
            f"of step {self._state.best_step} with a loss of {self._state.best_loss:.4f}, are merged"
        ]
        if examples.dropped:
            said.append(f"recovery: {examples.dropped} rows have no answer within the cutoff and were left out")
        if self._warmup(total) != options.recovery_warmup_steps:
            said.append(f"recovery: warm-up of {self._warmup(total)} steps, a tenth of so short a training")
        if begun:
            said.append(f"recovery: taken up at step {begun} of an interrupted attempt, whose seconds are not counted")
        return tuple(said)


def _schedule(step: int, total: int, warmup: int) -> float:
    """The share of the learning rate: linearly up over the warm-up, then linearly down to zero."""
    if step < warmup:
        return step / warmup
    return (total - step) / max(1, total - warmup)


def _mixed(seed: int, number: int) -> int:
    """A seed for one of many draws that hang on one seed."""
    return (seed * 1_000_003 + number) % 2**63


def _chunks(examples: Sequence[Example], size: int) -> list[Sequence[Example]]:
    return [examples[start : start + size] for start in range(0, len(examples), size)]
