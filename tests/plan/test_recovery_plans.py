"""A method that trains after compressing gets its data set as an input; any other refuses one beforehand."""

from pathlib import Path

import pytest

from harness.contract import Device
from orchestrator.errors import BadManifest
from orchestrator.images.catalog import ImageCatalog
from orchestrator.manifest import Manifest
from orchestrator.plan import build_plan
from orchestrator.stages import Plan, StageOutput

CATALOG = ImageCatalog(Path(__file__).parents[2] / "images")
MODEL = {"name": "tiny", "source": "hub:org/tiny@" + "0" * 40}


def plan_of(**entry: object) -> Plan:
    compress = {"method": "llm-pruner", "calibration": {"dataset": "c4"}, **entry}
    manifest = Manifest.model_validate({"name": "recovery", "models": [MODEL], "compress": [compress]})
    return build_plan(manifest, CATALOG, Device(threads=1), None)


def test_the_recovery_set_is_fetched_and_handed_to_the_method() -> None:
    plan = plan_of(setting="20%", recovery="alpaca")
    stage = plan.stage("compress/tiny/llm-pruner-20%")
    assert stage.inputs["recovery"] == StageOutput("data/alpaca")
    assert plan.stage("data/alpaca").operation.value == "fetch"


def test_without_one_the_method_has_no_such_input() -> None:
    assert set(plan_of().stage("compress/tiny/llm-pruner-20%").inputs) == {"checkpoint", "calibration"}


def test_the_set_may_be_a_file_of_the_users(tmp_path: Path) -> None:
    rows = tmp_path / "mine.jsonl"
    rows.write_text('{"instruction": "w1", "input": "", "output": "w2"}\n')
    stage = plan_of(recovery=f"file:{rows}").stage("compress/tiny/llm-pruner-20%")
    (data,) = [one for one in stage.needs if "mine.jsonl" in one]
    assert stage.inputs["recovery"] == StageOutput(data)


def test_a_method_that_does_not_train_refuses_a_recovery_set() -> None:
    with pytest.raises(BadManifest, match="sparsegpt does not train after compressing"):
        plan_of(method="sparsegpt", recovery="alpaca")


def test_the_authors_own_flag_is_a_setting_of_the_method_that_has_one() -> None:
    stage = plan_of(setting="official-flag:25%").stage("compress/tiny/llm-pruner-official-flag:25%")
    assert stage.parameters.model_dump()["setting"]["official_flag"] == 0.25
    with pytest.raises(BadManifest, match="sparsegpt has no setting 'official-flag:25%'"):
        plan_of(method="sparsegpt", setting="official-flag:25%")
