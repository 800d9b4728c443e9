"""`python serve_each.py FILE`: each request of a JSON file to `python -m harness`, each in a fork of this process.

The libraries are loaded once, before any of the harness is: a worker of its own for each would take seconds to do so.
Every entry has the `request`, the `image` and where to write what was `loaded` and what the worker `said`.
"""

import importlib
import json
import os
import runpy
import sys
from pathlib import Path

LIBRARIES = (
    "compressed_tensors",
    "lm_eval.api.task",
    "pyarrow",
    "torch._dynamo",
    "torch.utils.flop_counter",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
)


def main(entries: list[dict[str, str]]) -> None:
    for name in LIBRARIES:
        importlib.import_module(name)
    assert not any(name.partition(".")[0] == "harness" for name in sys.modules)
    sys.modules["torch"].set_num_threads(1)
    for entry in entries:
        child = os.fork()
        if child == 0:
            serve(entry)
        os.waitpid(child, 0)


def serve(entry: dict[str, str]) -> None:
    """Be the worker, to the end of this process."""
    os.environ |= {"LLMCBENCH_IMAGE": entry["image"], "LLMCBENCH_TEST_LOADED": entry["loaded"]}
    os.dup2(os.open(entry["request"], os.O_RDONLY), 0)
    os.dup2(os.open(entry["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
    status = 0
    try:
        runpy.run_module("harness", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        status = int(ended.code or 0)
    finally:
        sys.stdout.flush()
        os._exit(status)


main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
