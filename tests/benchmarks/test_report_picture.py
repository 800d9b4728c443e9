"""The README opens with the report of a real run: what it says there is what that run's report says."""

import yaml

from benchmarks.report_picture import MANIFEST, NAMES_A_FOLDER, PICTURES, README, read_kept, with_answer
from orchestrator.manifest import Manifest
from orchestrator.report.recommendation import recommendations
from orchestrator.store import StageStatus


def test_the_answer_in_the_readme_is_that_of_the_kept_report() -> None:
    text = README.read_text("utf-8")
    assert with_answer(text, read_kept()) == text, "run: python benchmarks/report_picture.py"
    (answer,) = recommendations(read_kept())
    assert " ".join(answer.split()) in " ".join(text.replace("\n> ", " ").split())


def test_the_kept_report_is_of_a_finished_run_of_the_manifest_beside_it() -> None:
    report = read_kept()
    assert {stage.status for stage in report.stages} <= {StageStatus.DONE, StageStatus.CACHED}
    asked = Manifest.model_validate(yaml.safe_load(MANIFEST.read_text("utf-8")))
    assert Manifest.model_validate(report.manifest) == asked


def test_the_kept_report_quotes_no_data_set_and_names_no_folder_of_the_machine() -> None:
    shown = [item for task in read_kept().differing for item in task.shown]
    assert shown
    assert not any(item.question or item.choices for item in shown)
    assert NAMES_A_FOLDER.findall(read_kept().model_dump_json()) == []


def test_the_pictures_are_small() -> None:
    for picture in PICTURES.values():
        content = picture.read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) < 250_000
