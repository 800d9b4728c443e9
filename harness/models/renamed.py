"""A model that is written under another architecture's name must not thereby get another tokenizer."""

from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import WorkerError
from harness.fetch.tokenizer import mend_settings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBES = ("w1 some words 2", "  Zwei  Wörter\nand, 1984: x=3.14!", "naïve 漢字 🙂 don't")


def keep_tokenizer(tokenizer: "PreTrainedTokenizerBase", staging: Path, architecture: str) -> None:
    """Write the tokenizer in use: under another model type, transformers may build another one from the same files.

    Raises:
        WorkerError: the tokenizer that the checkpoint gives is still another.
    """
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(str(staging))
    mend_settings(staging)
    written = AutoTokenizer.from_pretrained(str(staging), local_files_only=True, trust_remote_code=False)
    if any(written(text)["input_ids"] != tokenizer(text)["input_ids"] for text in _PROBES):
        raise WorkerError(
            f"the tokenizer reads other tokens once the model is called a {architecture}",
            hint="keep the architecture's name: compress with `export: original`, and do not ask for one width",
        )
