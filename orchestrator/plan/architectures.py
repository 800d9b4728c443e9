"""What is known of a model before it is fetched: its architecture, which methods know that, its linears' sizes."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from harness.contract import (
    HubModel,
    ImageDescription,
    MethodDescription,
    PackagedModelDescription,
    PackageModel,
    did_you_mean,
)
from orchestrator.errors import BadManifest
from orchestrator.manifest import ModelEntry
from orchestrator.manifest.hub import HubUnavailable
from orchestrator.manifest.sources import ModelSource

ConfigLookUp = Callable[[str, str], Mapping[str, Any] | None]
"""The `config.json` of a model of the hub, by repository and commit; None where there is none.

It raises HubUnavailable where the hub gives no answer.
"""

Architectures = Callable[[ModelSource], str | None]


def known_architectures(fetch: ImageDescription, look_up: ConfigLookUp | None) -> Architectures:
    """The architecture of a source, as `fetch` will store it; None where it is not known beforehand.

    It comes from a local folder's configuration, a GGUF file's header, the description of a package, and for a model of
    the hub from its configuration alone, which `look_up` brings. A hub that does not answer is asked once.
    """
    asking = [] if look_up is None else [look_up]

    def find(source: ModelSource) -> str | None:
        if source.contents is not None:
            return source.contents.family.architecture
        if isinstance(source.source, PackageModel):
            return next((one.architecture for one in fetch.models if _is(one, source.source)), None)
        try:
            config = _configuration(source, *asking)
        except HubUnavailable:
            asking.clear()
            return None
        return None if config is None else _named_in(config, fetch)

    return find


def stated_architecture(model: ModelEntry, found: str | None) -> str | None:
    """What the manifest states where nothing else tells, as of a model of a hub that does not answer.

    Raises:
        BadManifest: the model is `found` to be of another one.
    """
    if model.architecture is not None and found not in (None, model.architecture):
        raise BadManifest(
            f"{model.name} is of the architecture {found} once it is fetched, not {model.architecture}",
            hint="correct `architecture`, or leave it out",
        )
    return found or model.architecture


def known_input_sizes(source: ModelSource, fetch: ImageDescription) -> tuple[int, ...]:
    """The input sizes of a model's linears, as far as its package's description or its local configuration says."""
    if isinstance(source.source, PackageModel):
        return next((one.input_sizes for one in fetch.models if _is(one, source.source)), ())
    config = _configuration(source) or {}
    heads, head_dim = config.get("num_attention_heads"), config.get("head_dim")
    sizes = [config.get(name) for name in ("hidden_size", "intermediate_size", "ffn_dim")]
    if isinstance(heads, int) and isinstance(head_dim, int):
        sizes.append(heads * head_dim)
    return tuple(dict.fromkeys(size for size in sizes if isinstance(size, int) and size > 0))


def _is(known: PackagedModelDescription, asked: PackageModel) -> bool:
    """Whether a package with a known model is asked for, by its name or by its wheels."""
    return asked.wheels == known.wheels or (not asked.wheels and asked.text == f"pypi:{known.requirement}")


def refusal(method: MethodDescription, architecture: str | None) -> str | None:
    """Why a method cannot compress a model of this architecture; None where it can, or where that is not known."""
    if architecture is None or not method.architectures or architecture in method.architectures:
        return None
    near = did_you_mean(architecture, method.architectures)
    return f"{method.name} does not know the architecture {architecture}{near or ''}"


def _configuration(source: ModelSource, look_up: ConfigLookUp | None = None) -> Mapping[str, Any] | None:
    if isinstance(source.source, HubModel):
        return None if look_up is None else look_up(source.source.repository, source.source.revision)
    if source.checkpoint is None:
        return None
    try:
        config = json.loads((source.checkpoint / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # the fetch says what is wrong with such a folder
    return config if isinstance(config, dict) else None


def _named_in(config: Mapping[str, Any], fetch: ImageDescription) -> str | None:
    converted = fetch.converted_architectures.get(str(config.get("model_type")))
    named = config.get("architectures")
    first = named[0] if isinstance(named, list) and named else None
    return converted or (first if isinstance(first, str) else None)
