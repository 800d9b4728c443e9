"""What libraries made for transformers 4 do not find in a config.json that transformers 5 wrote."""

from collections.abc import Mapping
from typing import Any

from harness.contract import Reason
from harness.errors import Unsupported

_DEFAULT_THETA = 10000.0


def refuse_unread_rotation(library: str, config: Mapping[str, Any]) -> None:
    """Raise Unsupported where `library` would silently rotate by other angles than the model was trained with.

    Such a library reads `rope_theta` and `rope_scaling` at the top level of config.json, and takes 10000 without any
    scaling where they are missing; transformers 5 writes both into `rope_parameters`.
    """
    parameters = config.get("rope_parameters")
    if not isinstance(parameters, Mapping) or "rope_theta" in config:
        return
    theta = parameters.get("rope_theta", _DEFAULT_THETA)
    if theta == _DEFAULT_THETA and parameters.get("rope_type", "default") == "default":
        return
    raise Unsupported(
        Reason.FORMAT,
        f"{library} does not read rope_parameters of config.json, and would silently take rope_theta {_DEFAULT_THETA:g}"
        f" without scaling instead of {theta:g} ({parameters.get('rope_type', 'default')})",
        hint="export the checkpoint for this library: that writes rope_theta at the top level",
    )
