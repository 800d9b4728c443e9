"""What a `quantization_config` says that a reader of the tensors must know, whoever wrote it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import BadCheckpoint

_WHOLE = 16


@dataclass(frozen=True)
class Scheme:
    """`group_size` 0 is a whole row. `symmetric` is None where the layout stores zeros in any case, and does not say.

    `zeros_less_one`: the stored zeros are to be read as one more. `act_order`: groups need not be neighbours.
    """

    bits: int
    symmetric: bool | None
    group_size: int
    activation_bits: int = _WHOLE
    activations_symmetric: bool = True
    zeros_less_one: bool = False
    act_order: bool = False


class StoredConfig(BaseModel):
    """Base of what is read from a `quantization_config`; keys that no reader needs are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


Stored = TypeVar("Stored", bound=StoredConfig)


def read_as(model: type[Stored], layout: str, config: Mapping[str, object]) -> Stored:
    """Validate a `quantization_config`.

    Raises:
        BadCheckpoint: it is not one of this layout, or of a variant that is not read here.
    """
    try:
        return model.model_validate(config)
    except ValidationError as invalid:
        first = invalid.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise BadCheckpoint(
            f"config.json's quantization_config is not one of {layout} that is read here: {key}: {first['msg']}",
            hint="compress the checkpoint again; a published artifact is never changed by hand",
        ) from invalid
