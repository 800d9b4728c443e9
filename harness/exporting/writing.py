"""Writing an exported checkpoint: the source's shards one by one, each with its tensors replaced or copied."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from harness.checkpoint import CONFIG_NAME, INDEX_NAME
from harness.exporting.conversion import Conversion
from harness.exporting.source import Source
from harness.fetch.configuration import for_all_readers
from harness.reporter import Reporter


def write(source: Source, conversion: Conversion, staging: Path, reporter: Reporter) -> None:
    """Write the new folder `staging`. No more than one shard is in memory.

    Config.json also gets the names that older readers know (`rope_theta` and `torch_dtype` at the top).
    """
    staging.mkdir()
    shards = sorted({entry.file for entry in source.stored.values()})
    index: dict[str, str] = {}
    size_bytes = 0
    for done, shard in enumerate(shards):
        reporter.progress(done, len(shards), "shard")
        written = _write_shard(source, conversion, staging, shard)
        index |= dict.fromkeys(written, shard)
        size_bytes += sum(written.values())
    reporter.progress(len(shards), len(shards), "shard")
    if (source.folder / INDEX_NAME).is_file():
        _write_json(staging / INDEX_NAME, {"metadata": {"total_size": size_bytes}, "weight_map": index})
    _copy_others(source, staging, frozenset(shards))
    descriptor = conversion.descriptor
    config = for_all_readers(conversion.config, descriptor.architecture, descriptor.dtype)
    for name, document in {CONFIG_NAME: config, **conversion.documents}.items():
        _write_json(staging / name, document)


def _write_shard(source: Source, conversion: Conversion, staging: Path, shard: str) -> dict[str, int]:
    """The size in bytes of each tensor that was written."""
    tensors: dict[str, Tensor] = {}
    for name, entry in source.stored.items():
        if entry.file == shard:
            make = conversion.replaced.get(name)
            made = {name: source.tensor(name)} if make is None else make()
            tensors |= {new: tensor.contiguous() for new, tensor in made.items()}
    path = staging / shard
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"format": "pt"})
    return {name: tensor.nbytes for name, tensor in tensors.items()}


def _copy_others(source: Source, staging: Path, shards: frozenset[str]) -> None:
    for name in source.descriptor.files:
        if name not in shards and name not in (CONFIG_NAME, INDEX_NAME):
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.folder / name, staging / name)


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
