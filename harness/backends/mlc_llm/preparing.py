"""Before MLC-LLM can serve a checkpoint: its weights converted, its configuration written, its library compiled.

Each is a command of the library (`cli/convert_weight.py`, `cli/gen_config.py`, `cli/compile.py` in mlc-ai/mlc-llm), run
as a process of its own; what it prints goes to the stage's stderr.log.
"""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from harness.backends.mlc_llm.quantization import Conversion
from harness.backends.mlc_llm.refusals import explain
from harness.errors import WorkerError

_TAIL_LINES = 15
_NO_CHAT = "LM"
"""The conversation template that adds nothing to a prompt."""
_LIBRARY_NAME = "model.so"


@dataclass(frozen=True)
class Prepared:
    """`folder` holds what MLC serves, `library` is compiled for it. `seconds` is the wall time of all three commands.

    `weight_bytes` are the converted weights as they will lie in memory.
    """

    folder: Path
    library: Path
    seconds: float
    weight_bytes: int


def prepare(
    checkpoint: Path, folder: Path, conversion: Conversion, *, device: str, context_tokens: int, sequences: int
) -> Prepared:
    """Fill `folder` from the checkpoint. `device` is MLC's name of it, with an index: `cuda:0`, `cpu:0`.

    Raises:
        Unsupported: MLC refuses the architecture, a shape or the device.
        WorkerError: a command failed otherwise.
    """
    begin = time.perf_counter()
    kind, quantization = device.partition(":")[0], ("--quantization", conversion.name)
    source = ("--source-format", conversion.source_format)
    _command("convert_weight", str(checkpoint), *quantization, *source, "--device", device, "--output", str(folder))
    sizes = ("--context-window-size", str(context_tokens), "--max-batch-size", str(sequences))
    template = ("--conv-template", _NO_CHAT)
    _command("gen_config", str(checkpoint), *quantization, *template, *sizes, "--output", str(folder))
    library = folder / _LIBRARY_NAME
    _command("compile", str(folder), "--device", kind, "--opt", "O2", "--output", str(library))
    seconds = time.perf_counter() - begin
    weight_bytes = sum(path.stat().st_size for path in folder.glob("params_shard_*.bin"))
    if not library.is_file() or weight_bytes == 0:
        raise WorkerError(
            f"MLC-LLM's commands ended well, but left {'no weights' if library.is_file() else 'no library'}",
            hint="compare the image's wheels with the pinned ones, and see the stage's stderr.log",
        )
    return Prepared(folder, library, seconds, weight_bytes)


def _command(name: str, *arguments: str) -> None:
    done = subprocess.run(  # noqa: S603  the library's own command
        [sys.executable, "-m", "mlc_llm", name, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        env=os.environ,
    )
    sys.stderr.write(done.stdout)
    if done.returncode != 0:
        tail = "\n".join(done.stdout.strip().splitlines()[-_TAIL_LINES:])
        failure = RuntimeError(f"`mlc_llm {name}` ended with status {done.returncode}: {tail}")
        raise explain(failure, doing=name)
