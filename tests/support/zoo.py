"""The trained models under `tests/zoo`, as checkpoint artifacts."""

import json
import shutil
from pathlib import Path

from harness.checkpoint import publish
from harness.contract import CheckpointDescriptor, CheckpointFormat, Dtype, digest_file

FOLDER = Path(__file__).parents[1] / "zoo"
ZOO = (
    "llama-mha",
    "llama-gqa",
    "llama-gqa-small",
    "mistral",
    "qwen2",
    "qwen3",
    "opt",
    "opt-post-norm",
    "glm",
)


def zoo_folder(name: str) -> Path:
    """The committed Hugging Face folder of a model, once its files were found to be those of `SHA256SUMS`."""
    lines = (FOLDER / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    sums = dict(reversed(line.split("  ", 1)) for line in lines)
    expected = {file: digest for file, digest in sums.items() if file.startswith(f"{name}/")}
    present = {f"{name}/{path.name}": digest_file(path) for path in (FOLDER / name).iterdir()}
    assert present == expected, f"tests/zoo/{name} is not what SHA256SUMS says"
    return FOLDER / name


def zoo_checkpoint(name: str, folder: Path) -> CheckpointDescriptor:
    """Publish a model of the zoo as the checkpoint `folder`, in bfloat16 as it is stored."""
    staging = folder.with_name(f"{folder.name}.staging")
    shutil.copytree(zoo_folder(name), staging)
    config = json.loads((staging / "config.json").read_text(encoding="utf-8"))
    training = json.loads((FOLDER / "training.json").read_text(encoding="utf-8"))
    return publish(
        staging,
        folder,
        lambda files: CheckpointDescriptor(
            files=files,
            format=CheckpointFormat.DENSE,
            dtype=Dtype(config["dtype"]),
            architecture=config["architectures"][0],
            parameter_count=training[name]["parameters"],
            source=f"tests/zoo/{name}",
        ),
    )
