"""A figure beyond what the device does, or of other work than the model's, is a failure and never a result."""

import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import physics
from harness.backends import run
from harness.backends.base import BatchOrder, ServeOrder
from harness.backends.following import Following, compare, measured_tie_nats, tie_nats
from harness.backends.native.serving import NativeEngine
from harness.backends.serving_memory import ServingPeak
from harness.backends.transformers import TransformersEngine
from harness.contract import (
    BenchmarkParameters,
    BenchmarkRequest,
    BenchmarkResult,
    Device,
    Dtype,
    ErrorCode,
    EvaluationCost,
    Quantization,
)
from harness.device_telemetry import watch
from harness.errors import Implausible
from harness.evaluation.evaluate import _bounded
from harness.models.decoding import Decoded
from harness.options import NoOptions
from harness.physics import hold, hold_energy, product_rate, read_rate, uninterrupted_product_rate
from harness.profiling.profile import token_weight_bytes
from harness.telemetry import PeakMemory
from tests.support.fake_nvml import UUID, on_its_clock, one_gpu
from tests.support.small_checkpoints import Recorder, publish_checkpoint, small_model
from tests.support.stored_zoo import simulate
from tests.support.zoo import zoo_checkpoint

CPU = torch.device("cpu")
SHORT = {"prompt_tokens": 8, "generate_tokens": 6, "batch_sizes": (1, 3), "repeats": 2}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(physics, "_PAUSE_SECONDS", 0.0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish_checkpoint(tmp_path_factory.mktemp("model") / "llama", small_model("llama"))


def perform(checkpoint: Path, backend: str) -> BenchmarkResult:
    request = BenchmarkRequest(
        id="test",
        device=Device(threads=1),
        inputs={"checkpoint": str(checkpoint)},
        output=str(checkpoint.parent),
        parameters=BenchmarkParameters.model_validate({"backend": backend, **SHORT}),
    )
    return run(request, Recorder().reporter)


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("backend", ["transformers", "native"])
def test_the_bounds_and_the_compared_tokens_are_kept_with_the_speeds(checkpoint: Path, backend: str) -> None:
    result = perform(checkpoint, backend)
    weights = token_weight_bytes(checkpoint, 4)
    for speed, sequences in zip(result.speeds, (1, 2), strict=True):
        reading, multiplying = speed.bounds
        steps = speed.decode_tokens_per_second / speed.batch_size
        keys_and_values = 2 * 2 * 2 * 8 * (8 + 3) * 4 * speed.batch_size
        assert (reading.unit, multiplying.unit) == ("bytes/s", "operations/s")
        assert reading.implied / steps == pytest.approx(weights + keys_and_values, rel=0.02)
        assert 0 < reading.implied < reading.possible
        assert 0 < multiplying.implied < multiplying.possible
        assert speed.token_check is not None
        assert (speed.token_check.compared, speed.token_check.differing) == (6 * sequences, 0)
        assert speed.token_check_absent is None


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("backend", [TransformersEngine, NativeEngine])
def test_steps_that_compute_nothing_are_refused_for_their_tokens(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, backend: type
) -> None:
    """As a graph that is replayed on another device: the first token is there, and the later ones never come."""
    plain = backend.decode

    def decode(engine: Any, prompts: torch.Tensor, generate_tokens: int) -> Decoded:
        decoded = plain(engine, prompts, generate_tokens)
        tokens = decoded.tokens.clone()
        tokens[:, 1:] = 0
        return replace(decoded, tokens=tokens)

    monkeypatch.setattr(backend, "decode", decode)
    name = "native" if backend is NativeEngine else "transformers"
    with pytest.raises(Implausible, match=r"token \d of a timed run is 0, and the plain greedy loop gives") as refused:
        perform(checkpoint, name)
    assert refused.value.code is ErrorCode.IMPLAUSIBLE


@pytest.mark.usefixtures("warm")
def test_steps_that_take_no_time_are_refused_for_their_speed(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = NativeEngine.decode
    monkeypatch.setattr(NativeEngine, "decode", lambda *arguments: replace(plain(*arguments), decode_seconds=1e-9))
    with pytest.raises(Implausible, match=r"while decoding at batch 1: .* means \S+ bytes/s, and this device came to"):
        perform(checkpoint, "native")


@pytest.mark.usefixtures("warm")
def test_a_prefill_that_takes_no_time_is_refused(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = TransformersEngine.decode
    monkeypatch.setattr(
        TransformersEngine, "decode", lambda *arguments: replace(plain(*arguments), prefill_seconds=1e-9)
    )
    with pytest.raises(Implausible, match="multiplying in the prefill at batch 1"):
        perform(checkpoint, "transformers")


@pytest.mark.parametrize("name", ["llama-mha", "llama-gqa", "qwen2", "opt", "opt-post-norm", "glm", "mistral"])
def test_every_family_follows_its_own_tokens_and_no_others(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    zoo_checkpoint(name, folder)
    order = ServeOrder(folder, Device(threads=1), None, 40, (2,), 80, NoOptions(), tmp_path)
    with ServingPeak(partial(PeakMemory, CPU)) as peak:
        engine = TransformersEngine(order, peak)
        batch = BatchOrder(batch_size=2, prompt_tokens=20, generate_tokens=20, seed=1)
        prompt, generated = batch.token_ids(engine.vocabulary)[1], engine.run(batch).generated[1]
        assert not isinstance(generated, str)
        check = compare(generated, engine.follow(prompt, generated))
        assert check is not None
        assert check.compared == 20
        wrong = (*generated[:5], (generated[5] + 1) % engine.vocabulary, *generated[6:])
        with pytest.raises(Implausible, match="token 5 of a timed run"):
            compare(wrong, {5: engine.follow(prompt, wrong)[5]})
        in_float32 = 2 * token_weight_bytes(folder, 2)
        assert engine.weights.token_bytes == pytest.approx(in_float32, rel=0.02)


def test_a_near_tie_may_differ_and_is_kept() -> None:
    tie = tie_nats(Dtype.BFLOAT16)
    near, equal = Following(3, tie / 2, tie), Following(4, 0.0, tie)
    check = compare((3, 7, 4), {0: replace(near, token=3), 1: near, 2: equal})
    assert check is not None
    assert (check.compared, check.differing, check.largest_gap_nats) == (3, 1, tie / 2)
    with pytest.raises(Implausible, match="token 1 of a timed run is 7, and the plain greedy loop gives 3"):
        compare((3, 7), {1: Following(3, 2 * tie, tie)})


def test_where_nearness_is_not_known_most_tokens_must_agree() -> None:
    unknown = {place: Following(place, None, 1.0) for place in range(3)}
    check = compare((0, 1, 9), unknown)
    assert check is not None
    assert (check.differing, check.largest_gap_nats) == (1, None)
    with pytest.raises(Implausible, match="2 of 3 tokens of a timed run"):
        compare((0, 8, 9), unknown)
    assert compare((0, 8, 9), {}) is None


def test_coarser_numbers_allow_more() -> None:
    allowed = [tie_nats(dtype) for dtype in (Dtype.FLOAT32, Dtype.FLOAT16, Dtype.BFLOAT16)]
    assert allowed == sorted(allowed)
    assert tie_nats(Dtype.FLOAT32, activation_bits=8) > tie_nats(Dtype.FLOAT16)


def test_activations_in_8_bits_excuse_half_a_spread_and_in_fewer_never_more_than_two() -> None:
    """On an H200, random W8A8 weights of LLaMA-2-7B's shape differed by 0.43 nats at a spread of 1.27."""
    assert tie_nats(Dtype.FLOAT16, activation_bits=8, spread_nats=1.27) == pytest.approx(1.27 / 2)
    assert tie_nats(Dtype.FLOAT16, activation_bits=4, spread_nats=1.27) == pytest.approx(2 * 1.27)


def test_what_rounding_explains_is_measured_where_activations_are_codes(tmp_path: Path) -> None:
    """Codes of few bits flip at what numbers of 16 do not notice; what another model would say is found still."""
    zoo_checkpoint("llama-mha", tmp_path / "dense")
    folders = {16: tmp_path / "dense"}
    for bits in (8, 4):
        how = Quantization(weight_bits=bits, activation_bits=bits, group_size=0, symmetric=True)
        folders[bits] = simulate(tmp_path / "dense", tmp_path / f"w{bits}", how)
    batch = BatchOrder(batch_size=1, prompt_tokens=20, generate_tokens=12, seed=1)
    ties = {}
    for bits, folder in folders.items():
        order = ServeOrder(folder, Device(threads=1), Dtype.FLOAT16, 40, (1,), 40, NoOptions(), tmp_path)
        with ServingPeak(partial(PeakMemory, CPU)) as peak:
            engine = TransformersEngine(order, peak)
            (prompt,) = batch.token_ids(engine.vocabulary)
            (generated,) = engine.run(batch).generated
            assert not isinstance(generated, str)
            followed = engine.follow(prompt, generated)
            check = compare(generated, followed)
            assert check is not None
            ties[bits] = max(one.tie_nats for one in followed.values())
            with pytest.raises(Implausible):
                compare(range(12), engine.follow(prompt, tuple(range(12))))
    assert ties[16] < ties[8] < ties[4]


def test_noise_never_excuses_more_than_two_spreads() -> None:
    assert measured_tie_nats(Dtype.FLOAT16, 0.05, 1.3) == pytest.approx(0.4)
    assert measured_tie_nats(Dtype.FLOAT16, 5.0, 1.3) == pytest.approx(2.6)
    assert measured_tie_nats(Dtype.FLOAT16, 0.0, 1.3) == tie_nats(Dtype.FLOAT16, spread_nats=1.3)


def test_a_rate_is_measured_again_before_a_figure_is_refused() -> None:
    measured = iter([1.0, 2.0, 10.0])
    bound = hold("work", 9.0, "bytes/s", [lambda: next(measured)])
    assert (bound.implied, bound.possible, bound.kept) == (9.0, 10.0, True)
    with pytest.raises(Implausible, match=r"work: .* means 10\.6 bytes/s, and this device came to 10 bytes/s"):
        hold("work", 10.6, "bytes/s", [lambda: 10.0])
    assert hold("work", 10.5, "bytes/s", [lambda: 10.0, lambda: 3.0]).possible == 10.0


def test_a_device_that_computes_nothing_has_no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_rate(CPU, 2**20) > 0
    assert product_rate(CPU, torch.float32) > 0
    monkeypatch.setattr(torch, "mm", lambda left, right: torch.zeros_like(left))
    monkeypatch.setattr(torch, "mv", lambda left, right: torch.zeros_like(right))
    with pytest.raises(Implausible, match=r"returned 0 for a sum of \d+ ones"):
        product_rate(CPU, torch.float32)
    with pytest.raises(Implausible, match="nothing that it computes counts"):
        read_rate(CPU, 2**20)


def test_other_work_on_the_processor_does_not_lower_what_its_threads_come_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product that is interrupted for longer than it takes: only the rate by the wall clock falls."""
    multiply = torch.mm

    def interrupted(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        time.sleep(0.02)
        return multiply(left, right)

    monkeypatch.setattr("harness.physics._SIZES", {"cpu": (64,)})
    monkeypatch.setattr(torch, "mm", interrupted)
    threads = torch.get_num_threads()
    assert uninterrupted_product_rate(torch.float32) > 3 * product_rate(CPU, torch.float32)
    assert torch.get_num_threads() == threads
    monkeypatch.setattr(torch, "mm", lambda left, right: torch.zeros_like(left))
    with pytest.raises(Implausible, match="returned 0 for a sum of 64 ones"):
        uninterrupted_product_rate(torch.float32)


def test_an_evaluation_beside_other_work_is_held_against_processor_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def bounded(rate: float) -> float:
        cost = EvaluationCost(
            prepare_seconds=0,
            load_seconds=0,
            score_seconds=1,
            scored_items=1,
            asked_tokens=1,
            computed_tokens=1,
            padding_tokens=0,
            model_operations_per_second=rate,
            parameter_count=1,
        )
        return _bounded(cost, Device(threads=1), Dtype.FLOAT32).bounds[0].possible

    monkeypatch.setattr("harness.physics.product_rate", lambda device, dtype: 10.0)
    monkeypatch.setattr("harness.physics.uninterrupted_product_rate", lambda dtype: 50.0)
    assert bounded(40.0) == 50.0
    with pytest.raises(Implausible, match="multiplying while scoring on 1 device"):
        bounded(60.0)


@pytest.mark.parametrize(("joules", "kept"), [(770, True), (805, True), (850, False), (60, False), (86, True)])
def test_energy_lies_between_idle_and_the_power_limit(joules: float, kept: bool) -> None:
    def held() -> list[bool]:
        return [one.kept for one in hold_energy(joules, 1.0, limit_watts=700, idle_watts=100)]

    if kept:
        assert held() == [True, True]
    else:
        with pytest.raises(Implausible, match="energy of the"):
            held()


def test_a_card_that_takes_more_than_it_may_gives_no_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", one_gpu(nvmlDeviceGetEnforcedPowerLimit=lambda: 100_000))
    on_its_clock(monkeypatch)
    with pytest.raises(Implausible, match=r"energy of the card under its power limit: .* means 64 J, .* came to 20 J"):
        watch((UUID,), lambda: 1)
