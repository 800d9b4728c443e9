"""Runs of one engine at each batch size: warm-up until they get no faster, timed repeats, one more under telemetry."""

import statistics
import time
from collections.abc import Sequence

from harness.backends.base import BatchOrder, Engine, TimedRun
from harness.backends.following import compare, joined
from harness.backends.prompts import Prompts
from harness.backends.repeats import FEWEST_RUNS, median_interval, noise_floor, still_warming_up, token_latency
from harness.contract import BenchmarkParameters, Speed
from harness.device_telemetry import watch
from harness.errors import WorkerError
from harness.reporter import Reporter

_MORE_WARM_UP = 4
"""Runs beyond those asked for, at most."""
_TELEMETRY_SECONDS = 1.0
_TELEMETRY_RUNS = 20
_SHOWN_TOKENS = 32
"""Of the first sequence, as evidence of what was generated."""


class Timer:
    """Times `engine`. `first_token_seconds` is the very first prefill; `notes` what the figures do not say."""

    def __init__(
        self, engine: Engine, parameters: BenchmarkParameters, prompts: Prompts | None, gpus: Sequence[str]
    ) -> None:
        self.first_token_seconds = 0.0
        self.notes: tuple[str, ...] = ()
        self._engine = engine
        self._parameters = parameters
        self._prompts = prompts
        self._gpus = gpus

    def measure(self, reporter: Reporter) -> tuple[Speed, ...]:
        """Tokens are compared when all is timed, so that no peak of memory has what that takes.

        Raises:
            WorkerError: the engine does not return as many tokens as it was asked for.
            Implausible: they are not what the model says.
        """
        parameters = self._parameters
        each = self._most_warm_up + parameters.repeats
        total = each * len(parameters.batch_sizes)
        speeds: list[Speed] = []
        timed: list[list[TimedRun]] = []
        for done, batch_size in enumerate(parameters.batch_sizes):
            begin = done * each
            warm_up = self._warm_up(batch_size, begin, total, reporter)
            if not speeds:
                self.first_token_seconds = warm_up[0].prefill_seconds
            runs = []
            with self._engine.peak.serving():
                for number in range(parameters.repeats):
                    reporter.progress(begin + self._most_warm_up + number, total, "run")
                    runs.append(self._run(batch_size))
                speeds.append(self._speed(runs, batch_size, len(warm_up)))
            timed.append(runs)
        checked = [self._with_checked_tokens(*one) for one in zip(speeds, timed, strict=True)]
        reporter.progress(total, total, "run")
        return tuple(checked)

    @property
    def _most_warm_up(self) -> int:
        return self._parameters.warmup + _MORE_WARM_UP

    def _warm_up(self, batch_size: int, begin: int, total: int, reporter: Reporter) -> list[TimedRun]:
        runs: list[TimedRun] = []
        seconds: list[float] = []
        while len(runs) < self._parameters.warmup or still_warming_up(seconds):
            if len(runs) == self._most_warm_up:
                self.notes += (f"batch {batch_size} was still getting faster after {len(runs)} warm-up runs",)
                break
            reporter.progress(begin + len(runs), total, "run")
            runs.append(self._run(batch_size))
            seconds.append(runs[-1].prefill_seconds + runs[-1].decode_seconds)
        return runs

    def _run(self, batch_size: int) -> TimedRun:
        parameters = self._parameters
        run = self._engine.run(self._order(batch_size))
        if run.generated_tokens != (parameters.generate_tokens,) * batch_size:
            raise WorkerError(
                f"{parameters.backend} generated {run.generated_tokens} tokens, not {parameters.generate_tokens} in"
                f" each of {batch_size} sequences, so its speed means nothing",
                hint="the backend stops early or counts differently; mend its module",
            )
        return run

    def _order(self, batch_size: int) -> BatchOrder:
        parameters = self._parameters
        return BatchOrder(
            batch_size=batch_size,
            prompt_tokens=parameters.prompt_tokens,
            generate_tokens=parameters.generate_tokens,
            seed=parameters.seed,
            prompts=None if self._prompts is None else self._prompts[:batch_size],
        )

    def _speed(self, runs: list[TimedRun], batch_size: int, warmup_runs: int) -> Speed:
        parameters = self._parameters
        decoded = batch_size * (parameters.generate_tokens - 1)
        samples = tuple(decoded / run.decode_seconds for run in runs)
        first_token_seconds = statistics.median(run.prefill_seconds for run in runs)
        steps = [seconds for run in runs for seconds in run.step_seconds]
        telemetry, telemetry_absent = watch(self._gpus, lambda: self._repeat(batch_size))
        return Speed(
            batch_size=batch_size,
            protocol=f"{parameters.protocol}-b{batch_size}",
            decode_tokens_per_second=statistics.median(samples),
            samples=samples,
            interval=median_interval(samples),
            noise_floor=(floor := noise_floor(samples)),
            noise_floor_absent=None if floor is not None else _too_few(len(samples)),
            prefill_tokens_per_second=batch_size * parameters.prompt_tokens / first_token_seconds,
            time_to_first_token_seconds=first_token_seconds,
            token_latency=token_latency(steps) if steps else None,
            token_latency_absent=None if steps else f"{parameters.backend} returns when all tokens are there",
            warmup_runs=warmup_runs,
            greedy_tokens=_first_tokens(runs[0]),
            repeatable=len({run.generated for run in runs}) == 1 if runs[0].generated else None,
            telemetry=telemetry,
            telemetry_absent=telemetry_absent,
        )

    def _with_checked_tokens(self, speed: Speed, runs: list[TimedRun]) -> Speed:
        """Of every timed run that differs from the others; with the reason where there is nothing to compare."""
        batch_size = speed.batch_size
        prompts = self._order(batch_size).token_ids(self._engine.vocabulary)
        claims = dict.fromkeys(
            (prompts[number], tokens)
            for run in runs
            for number in dict.fromkeys((0, batch_size - 1))
            if run.generated and not isinstance(tokens := run.generated[number], str)
        )
        if not claims:
            absent = f"{self._parameters.backend} returns no token numbers"
            return speed.model_copy(update={"token_check_absent": absent})
        checks = [compare(tokens, self._engine.follow(prompt, tokens)) for prompt, tokens in claims]
        found = [one for one in checks if one is not None]
        if not found:
            absent = "the rotary embedding changes with the length of the text"
            return speed.model_copy(update={"token_check_absent": absent})
        return speed.model_copy(update={"token_check": joined(found)})

    def _repeat(self, batch_size: int) -> int:
        """The timed work once more, for at least a second; returns the tokens generated."""
        tokens, begin = 0, time.perf_counter()
        for _ in range(_TELEMETRY_RUNS):
            tokens += sum(self._run(batch_size).generated_tokens)
            if time.perf_counter() - begin >= _TELEMETRY_SECONDS:
                break
        return tokens


def _too_few(runs: int) -> str:
    return f"{runs} timed runs, and it takes {FEWEST_RUNS} to show what differs by chance; rounds show it, too"


def _first_tokens(run: TimedRun) -> tuple[int, ...]:
    first = run.generated[0] if run.generated else ""
    return () if isinstance(first, str) else first[:_SHOWN_TOKENS]
