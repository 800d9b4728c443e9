"""The `quantization_config` of compressed-tensors: one scheme for all the linears that are not ignored."""

from collections.abc import Mapping, Sequence
from typing import Literal

from harness.contract import Quantization, Reason
from harness.errors import BadCheckpoint, Unsupported
from harness.quantization.layouts.scheme import Scheme, StoredConfig, read_as


class _Weights(StoredConfig):
    num_bits: int
    type: Literal["int"]
    symmetric: bool
    strategy: Literal["channel", "group"]
    group_size: int | None = None
    actorder: Literal["weight", "static"] | None = None


class _Activations(StoredConfig):
    num_bits: int
    type: Literal["int"]
    symmetric: bool
    strategy: Literal["token"]
    dynamic: Literal[True]


class _Group(StoredConfig):
    weights: _Weights
    input_activations: _Activations | None = None
    output_activations: None = None


class _Config(StoredConfig):
    quant_method: Literal["compressed-tensors"]
    format: str
    quantization_status: Literal["compressed"]
    config_groups: dict[str, _Group]
    kv_cache_scheme: None = None


def read_config(layout: str, config: Mapping[str, object]) -> Scheme:
    """The scheme that a `quantization_config` states.

    Raises:
        BadCheckpoint: it is of another layout, has several schemes, or a kind of quantization that is not read here.
    """
    stored = read_as(_Config, layout, config)
    if stored.format != layout or len(stored.config_groups) != 1:
        found = f"{stored.format} with {len(stored.config_groups)} scheme(s)"
        raise BadCheckpoint(
            f"config.json's quantization_config is {found}, not {layout} with one",
            hint="compress the checkpoint again with one setting for all linears",
        )
    (group,) = stored.config_groups.values()
    activations = group.input_activations
    return Scheme(
        bits=group.weights.num_bits,
        symmetric=group.weights.symmetric,
        group_size=(group.weights.group_size or 0) if group.weights.strategy == "group" else 0,
        activation_bits=16 if activations is None else activations.num_bits,
        activations_symmetric=activations is None or activations.symmetric,
    )


def make_config(layout: str, quantization: Quantization, ignored: Sequence[str]) -> dict[str, object]:
    """A whole `quantization_config` as compressed-tensors writes it: one scheme for all the linears not `ignored`.

    Raises:
        Unsupported: the activations are quantized asymmetrically, for which the library has another rule than we do.
    """
    scheme = {
        "targets": ["Linear"],
        "format": layout,
        "weights": {
            "num_bits": quantization.weight_bits,
            "type": "int",
            "symmetric": quantization.symmetric,
            "strategy": "group" if quantization.group_size else "channel",
            "group_size": quantization.group_size or None,
            "dynamic": False,
        },
        "input_activations": _activations(layout, quantization),
        "output_activations": None,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "quantization_status": "compressed",
        "config_groups": {"group_0": scheme},
        "ignore": list(dict.fromkeys([*ignored, "lm_head"])),
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


def _activations(layout: str, quantization: Quantization) -> dict[str, object] | None:
    if quantization.activation_bits >= 16:
        return None
    if not quantization.activations_symmetric:
        raise Unsupported(
            Reason.SETTING,
            f"{layout} is not written with asymmetric activations, which engines would not compute as we do",
            hint="use symmetric activations, or store dequantized weights (dense, simulated)",
        )
    return {
        "num_bits": quantization.activation_bits,
        "type": "int",
        "symmetric": True,
        "strategy": "token",
        "group_size": None,
        "dynamic": True,
    }
