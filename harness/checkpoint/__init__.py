"""Reading checkpoints, and publishing artifacts.

`layout` is a Hugging Face folder whoever made it; `artifact` is one that `llmcbench.json` describes completely.
"""

from harness.checkpoint.artifact import open_checkpoint, open_dataset, open_states, publish, read_rows
from harness.checkpoint.layout import (
    CONFIG_NAME,
    INDEX_NAME,
    WEIGHTS_NAME,
    ForeignCheckpoint,
    TensorEntry,
    inspect_foreign,
    read_config,
    read_index,
    read_tensors,
)
from harness.contract import DESCRIPTOR_NAME, PICKLE_SUFFIXES

__all__ = [
    "CONFIG_NAME",
    "DESCRIPTOR_NAME",
    "INDEX_NAME",
    "PICKLE_SUFFIXES",
    "WEIGHTS_NAME",
    "ForeignCheckpoint",
    "TensorEntry",
    "inspect_foreign",
    "open_checkpoint",
    "open_dataset",
    "open_states",
    "publish",
    "read_config",
    "read_index",
    "read_rows",
    "read_tensors",
]
