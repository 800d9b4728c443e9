"""One benchmark request from beginning to end: warm-up, timed runs at each batch size, medians."""

import difflib
import importlib
import statistics
from typing import cast

from harness.backends.base import Engine, Serve, TimedRun
from harness.backends.decoding import check_lengths
from harness.checkpoint import open_checkpoint, read_config
from harness.contract import BenchmarkParameters, BenchmarkRequest, BenchmarkResult, Reason, Speed
from harness.errors import BadRequest, Unsupported, WorkerError
from harness.inputs import input_folder
from harness.reporter import Reporter

_MODULES = {"transformers": "harness.backends.transformers"}


def benchmark(request: BenchmarkRequest, reporter: Reporter) -> BenchmarkResult:
    """See `harness.backends.run`."""
    parameters = request.parameters
    serve = _find(parameters.backend)
    checkpoint = input_folder(request, "checkpoint")
    open_checkpoint(checkpoint)
    context_tokens = parameters.prompt_tokens + parameters.generate_tokens
    _check(parameters, context=read_config(checkpoint).get("max_position_embeddings"))
    with serve(checkpoint, request.device, parameters.dtype, context_tokens=context_tokens) as engine:
        speeds = _measure(engine, parameters, reporter)
    if engine.memory is None:
        raise WorkerError(f"{parameters.backend} did not report its memory", hint="mend the backend's module")
    return BenchmarkResult(
        backend=parameters.backend,
        protocol=_protocol(parameters),
        speeds=speeds,
        load_seconds=engine.info.load_seconds,
        memory=engine.memory,
        dtype=engine.info.dtype,
        dtype_reason=engine.info.dtype_reason,
        notes=engine.info.notes,
    )


def _protocol(parameters: BenchmarkParameters) -> str:
    batches = ",".join(map(str, parameters.batch_sizes))
    return f"speed/{parameters.prompt_tokens}-{parameters.generate_tokens}-b{batches}"


def _find(name: str) -> Serve:
    if name not in _MODULES:
        nearest = difflib.get_close_matches(name, _MODULES, n=1)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise Unsupported(
            Reason.BACKEND, f"this image has no backend {name!r}", hint=f"{hint}It has: {', '.join(_MODULES)}"
        )
    return cast(Serve, importlib.import_module(_MODULES[name]).serve)


def _check(parameters: BenchmarkParameters, *, context: object) -> None:
    if parameters.generate_tokens < 2:
        raise BadRequest("one generated token leaves nothing to time after the prefill", hint="generate two or more")
    if isinstance(context, int):
        check_lengths(parameters.prompt_tokens, parameters.generate_tokens, context=context)


def _measure(engine: Engine, parameters: BenchmarkParameters, reporter: Reporter) -> tuple[Speed, ...]:
    runs_each = parameters.warmup + parameters.repeats
    total = runs_each * len(parameters.batch_sizes)
    speeds = []
    for done, batch_size in enumerate(parameters.batch_sizes):
        runs = []
        for number in range(runs_each):
            reporter.progress(done * runs_each + number, total, "run")
            runs.append(_run(engine, parameters, batch_size))
        speeds.append(_speed(runs[parameters.warmup :], parameters, batch_size))
    reporter.progress(total, total, "run")
    return tuple(speeds)


def _run(engine: Engine, parameters: BenchmarkParameters, batch_size: int) -> TimedRun:
    run = engine.run(
        batch_size=batch_size,
        prompt_tokens=parameters.prompt_tokens,
        generate_tokens=parameters.generate_tokens,
        seed=parameters.seed,
    )
    expected = (parameters.generate_tokens,) * batch_size
    if run.generated_tokens != expected:
        raise WorkerError(
            f"{parameters.backend} generated {run.generated_tokens} tokens, not {parameters.generate_tokens} in each"
            f" of {batch_size} sequences, so its speed means nothing",
            hint="the backend stops early or counts differently; mend its module",
        )
    return run


def _speed(runs: list[TimedRun], parameters: BenchmarkParameters, batch_size: int) -> Speed:
    decoded = batch_size * (parameters.generate_tokens - 1)
    samples = tuple(decoded / run.decode_seconds for run in runs)
    return Speed(
        batch_size=batch_size,
        decode_tokens_per_second=statistics.median(samples),
        samples=samples,
        prefill_tokens_per_second=statistics.median(
            batch_size * parameters.prompt_tokens / run.prefill_seconds for run in runs
        ),
    )
