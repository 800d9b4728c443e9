"""Before MLC-LLM can serve a checkpoint: its weights converted, its configuration written, its library compiled.

Each is a command of the library (`cli/convert_weight.py`, `cli/gen_config.py`, `cli/compile.py` in mlc-ai/mlc-llm), run
as a process of its own; what it prints goes to the stage's stderr.log.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.backends.mlc_llm.quantization import Conversion
from harness.backends.mlc_llm.refusals import explain, last_words
from harness.checkpoint import CONFIG_NAME, INDEX_NAME, read_tensors
from harness.errors import WorkerError

_NO_CHAT = "LM"
"""The conversation template that adds nothing to a prompt."""
_LIBRARY_NAME = "model.so"
_WEIGHTS_RECORD_NAME = "tensor-cache.json"
_MOST_STEP_TOKENS = 8192
"""Positions that one step may compute: MLC's own bound, and the default of the other libraries."""
_FLASHINFER = re.compile(r"\bflashinfer=1\b")
_NO_FLASHINFER = "fallback to TIR-based KV cache"


@dataclass(frozen=True)
class Lengths:
    """What the compiled library has room for: `sequences` at once, each of up to `context_tokens` in all."""

    context_tokens: int
    sequences: int

    @property
    def step_tokens(self) -> int:
        """That a whole batch of prompts is prefilled in one step, as far as the bound allows."""
        return min(max(self.sequences, 1) * self.context_tokens, _MOST_STEP_TOKENS)

    @property
    def window_tokens(self) -> int:
        """MLC's context window. Its prefill chunk is clipped to that (`model/llama/llama_model.py`)."""
        return max(self.context_tokens, self.step_tokens)


@dataclass(frozen=True)
class Prepared:
    """`folder` holds what MLC serves, `library` is compiled for it. `seconds` is the wall time of all three commands.

    `weight_bytes` are the converted weights as they will lie in memory. `attention` says whose kernels were compiled.
    """

    folder: Path
    library: Path
    seconds: float
    weight_bytes: int
    attention: str


def prepare(
    checkpoint: Path,
    folder: Path,
    conversion: Conversion,
    *,
    config: Mapping[str, Any],
    device: str,
    lengths: Lengths,
) -> Prepared:
    """Fill `folder` from the checkpoint, which is left as it is.

    `config` is what MLC is given as config.json. `device` is MLC's name of it, with an index: `cuda:0`, `cpu:0`.

    Raises:
        Unsupported: MLC refuses the architecture, a shape or the device.
        WorkerError: a command failed otherwise.
    """
    begin = time.perf_counter()
    source = _view(checkpoint, folder.with_name("source"), config)
    kind, quantization = device.partition(":")[0], ("--quantization", conversion.name)
    # an AWQ folder is not looked into (`support/auto_weight.py`), so that the index is named for either format
    weights = ("--source", str(source / INDEX_NAME)) if conversion.source_format == "awq" else ()
    _command(
        *("convert_weight", str(source), *quantization, "--source-format", conversion.source_format, *weights),
        *("--device", device, "--output", str(folder)),
    )
    sizes = ("--context-window-size", str(lengths.window_tokens), "--prefill-chunk-size", str(lengths.step_tokens))
    _command(
        *("gen_config", str(source), *quantization, "--conv-template", _NO_CHAT, *sizes),
        *("--max-batch-size", str(lengths.sequences), "--output", str(folder)),
    )
    library = folder / _LIBRARY_NAME
    said = _command("compile", str(folder), "--device", kind, "--opt", "O2", "--output", str(library))
    seconds = time.perf_counter() - begin
    if not library.is_file():
        raise _left_behind("no library")
    return Prepared(folder, library, seconds, _weight_bytes(folder), _attention(said))


def _view(checkpoint: Path, folder: Path, config: Mapping[str, Any]) -> Path:
    """A folder of links to the checkpoint's files, with a config.json of its own and an index of its tensors.

    `convert_weight` writes an index beside weights that have none (`support/auto_weight.py`), and a stage's input can
    not be written to.
    """
    folder.mkdir()
    for path in sorted(checkpoint.iterdir()):
        if path.name != CONFIG_NAME:
            (folder / path.name).symlink_to(path.resolve())
    (folder / CONFIG_NAME).write_text(json.dumps(dict(config), indent=2), encoding="utf-8")
    if not (folder / INDEX_NAME).exists():
        placed = {name: entry.file for name, entry in read_tensors(checkpoint).items()}
        (folder / INDEX_NAME).write_text(json.dumps({"weight_map": placed}, indent=2), encoding="utf-8")
    return folder


def _weight_bytes(folder: Path) -> int:
    """In memory. The shards on disk may be smaller: they hold float32 as bfloat16."""
    record = folder / _WEIGHTS_RECORD_NAME
    try:
        found = int(json.loads(record.read_text(encoding="utf-8"))["metadata"]["ParamBytes"])
    except (OSError, ValueError, KeyError, TypeError) as unread:
        raise _left_behind(f"no {record.name} that tells the size of the weights") from unread
    if found <= 0:
        raise _left_behind("no weights")
    return found


def _left_behind(what: str) -> WorkerError:
    return WorkerError(
        f"MLC-LLM's commands ended well, but left {what}",
        hint="compare the image's wheels with the pinned ones, and see the stage's stderr.log",
    )


def _attention(said: str) -> str:
    """From what `compile` printed: its own list of optimizations, and the one line on a FlashInfer that failed
    (`interface/compiler_flags.py`, `compiler_pass/dispatch_kv_cache_creation.py`)."""
    if _NO_FLASHINFER in said:
        return (
            "attention in TVM's own kernels: FlashInfer's could not be made, for the reason in the stage's stderr.log"
        )
    if _FLASHINFER.search(said):
        return "attention in FlashInfer's kernels"
    return "attention in TVM's own kernels: `mlc_llm compile` did not turn FlashInfer on"


def _command(*words: str) -> str:
    """What it printed, errors among it, in the order in which it did."""
    done = subprocess.run(  # noqa: S603  the library's own command
        [sys.executable, "-m", "mlc_llm", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    sys.stderr.write(done.stdout)
    if done.returncode != 0:
        failure = RuntimeError(f"`mlc_llm {words[0]}` ended with status {done.returncode}: {last_words(done.stdout)}")
        raise explain(failure, doing=words[0])
    return done.stdout
