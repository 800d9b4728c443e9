"""The rows of a support table, and the checkpoint that they are asked about.

A row names the conditions under which it holds; a condition that it leaves out holds for anything. Of the rows that
hold for a checkpoint the least favourable counts: `no`, then `as-dense`, then `yes`. A row with `otherwise` is a `no`
that counts only where no row grants the checkpoint.
"""

from enum import StrEnum
from functools import cached_property
from typing import Any, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from harness.contract import CheckpointFormat, DeviceKind, Dtype, Frozen, LayerWidths, Reason

CONDITIONS = {
    "formats": "format",
    "devices": "device",
    "weight_bits": "weight_bits",
    "activation_bits": "activation_bits",
    "group_sizes": "group_size",
    "symmetric": "symmetric",
    "activation_order": "activation_order",
    "zeros": "zeros",
    "layer_widths": "layer_widths",
    "dtypes": "dtype",
    "architectures": "architecture",
}
"""A condition of a row, and the property of a checkpoint that it is about."""


class Answer(StrEnum):
    """`as-dense`: computed with dense weights, so that the compression brings neither speed nor memory."""

    YES = "yes"
    AS_DENSE = "as-dense"
    NO = "no"


class Checkpoint(Frozen):
    """What is known of a checkpoint and of where it is to run. None: not known before it is there.

    16 `weight_bits` or `activation_bits` are not quantized; `group_size` 0 is a whole row; `activation_order`: groups
    of inputs in the order of their activations; `zeros`: pruned weights are stored; `dtype` is what is computed in.
    """

    format: CheckpointFormat
    device: DeviceKind | None = None
    weight_bits: PositiveInt | None = None
    activation_bits: PositiveInt | None = None
    group_size: NonNegativeInt | None = None
    symmetric: bool | None = None
    activation_order: bool | None = None
    zeros: bool | None = None
    layer_widths: LayerWidths | None = None
    dtype: Dtype | None = None
    architecture: str | None = None

    @classmethod
    def dense(cls, *, architecture: str | None = None, dtype: Dtype | None = None) -> Self:
        """A model as it was published."""
        return cls(
            format=CheckpointFormat.DENSE,
            weight_bits=16,
            activation_bits=16,
            group_size=0,
            symmetric=True,
            activation_order=False,
            zeros=False,
            layer_widths=LayerWidths.UNIFORM,
            dtype=dtype,
            architecture=architecture,
        )


class SupportRow(Frozen):
    """One answer. `source` is a page, a source file at a version, an issue, or `run: <what was run>`."""

    formats: tuple[CheckpointFormat, ...] = ()
    devices: tuple[DeviceKind, ...] = ()
    weight_bits: tuple[PositiveInt, ...] = ()
    activation_bits: tuple[PositiveInt, ...] = ()
    group_sizes: tuple[NonNegativeInt, ...] = ()
    symmetric: bool | None = None
    activation_order: bool | None = None
    zeros: bool | None = None
    layer_widths: LayerWidths | None = None
    dtypes: tuple[Dtype, ...] = ()
    architectures: tuple[str, ...] = ()
    answer: Answer
    otherwise: bool = False
    reason: Reason | None = None
    message: str = ""
    source: str = Field(min_length=1)

    @model_validator(mode="after")
    def _a_no_has_its_reason(self) -> Self:
        if (self.answer is Answer.NO) != (self.reason is not None):
            raise ValueError("a row has a reason code exactly where its answer is no")
        if self.answer is not Answer.YES and not self.message:
            raise ValueError(f"an answer {self.answer.value!r} says in a sentence why")
        if self.otherwise and self.answer is not Answer.NO:
            raise ValueError("only a no can hold otherwise")
        return self

    @cached_property
    def conditions(self) -> dict[str, tuple[Any, ...]]:
        """The values that each stated condition allows, by the property of a checkpoint."""
        return {
            about: value if isinstance(value, tuple) else (value,)
            for name, about in CONDITIONS.items()
            if (value := getattr(self, name)) not in ((), None)
        }

    def holds(self, properties: dict[str, Any]) -> bool:
        """Whether every condition is met by a checkpoint of which all that the row asks for is known."""
        return all(properties[about] in allowed for about, allowed in self.conditions.items())


class SupportTable(Frozen):
    """All answers of one backend; `versions` says of what, for each device kind that it was asked about."""

    backend: str
    versions: dict[DeviceKind, str]
    rows: tuple[SupportRow, ...]

    @property
    def devices(self) -> tuple[DeviceKind, ...]:
        return tuple(self.versions)

    @model_validator(mode="after")
    def _devices_have_versions(self) -> Self:
        for row in self.rows:
            if without := [kind.value for kind in row.devices if kind not in self.versions]:
                raise ValueError(f"a row is about {without[0]}, of which `versions` has none")
        return self
