"""The tokenizer files of a fetched model: complete, without remote code, and in words that older readers know too."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.contract import Reason
from harness.errors import BadCheckpoint, Unsupported

SETTINGS_NAME = "tokenizer_config.json"
TOKENIZER_NAME = "tokenizer.json"
VOCABULARY_NAMES = frozenset(
    {TOKENIZER_NAME, "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model"}
)
KEPT_NAMES = VOCABULARY_NAMES | {
    SETTINGS_NAME,
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
}


def require_vocabulary(folder: Path, names: Iterable[str]) -> None:
    """Refuse a model without a tokenizer.

    Raises:
        BadCheckpoint: none of `names` can hold a vocabulary.
    """
    if VOCABULARY_NAMES.isdisjoint(names):
        raise BadCheckpoint(
            f"{folder} has no tokenizer", hint="save the model's tokenizer beside it (tokenizer.save_pretrained)"
        )


def mend_settings(folder: Path) -> tuple[str, ...]:
    """Rewrite `tokenizer_config.json` where transformers 4 would stumble or remote code is named; returns notes.

    Raises:
        BadCheckpoint: it is not a JSON object.
        Unsupported: there is no tokenizer without the repository's own code.
    """
    path = folder / SETTINGS_NAME
    if not path.is_file():
        return ()
    settings = _read(path)
    mended = {key: value for key, value in settings.items() if key != "auto_map"}
    if mended.get("tokenizer_class") == "TokenizersBackend":
        mended["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(mended.get("extra_special_tokens"), list):
        mended["additional_special_tokens"] = mended.pop("extra_special_tokens")
    if mended != settings:
        path.write_text(json.dumps(mended, indent=2, sort_keys=True, ensure_ascii=False), encoding="utf-8")
    if not settings.get("auto_map"):
        return ()
    if not (folder / TOKENIZER_NAME).is_file():
        raise Unsupported(
            Reason.ARCHITECTURE,
            "the tokenizer needs the repository's own code (auto_map)",
            hint=f"choose a model whose tokenizer comes as {TOKENIZER_NAME}",
        )
    return (f"auto_map left out of {SETTINGS_NAME}: {TOKENIZER_NAME} says all",)


def _read(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as invalid:
        raise BadCheckpoint(f"{path.name} is not valid JSON: {invalid}", hint="copy or download it again") from invalid
    if not isinstance(settings, dict):
        raise BadCheckpoint(f"{path.name} does not hold a JSON object", hint="copy or download it again")
    return settings
