"""How far back the attention of each kind of layer reaches."""

from typing import Any


def attention_windows(config: Any) -> dict[str, int | None]:
    """For each kind of decoder layer, the keys that a query sees at most, itself included; None: all.

    `config` is a configuration of transformers; the kinds are those of its `layer_types`.
    """
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds:
        return {"full_attention": window}
    return {kind: window if kind == "sliding_attention" else None for kind in sorted(kinds)}


def shortest_window(config: Any) -> int | None:
    """The keys that a query sees at most in the layers that see least; None where all layers see all."""
    return min((window for window in attention_windows(config).values() if window is not None), default=None)
