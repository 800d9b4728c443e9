"""Short names of compression settings: `50%`, `2:4`, `W4A16`, `W4A16g128`."""

import re
from typing import Self

from pydantic import NonNegativeInt, PositiveInt, model_validator

from harness.contract.base import Frozen
from harness.contract.suggest import quoted

_RATIO = re.compile(r"([0-9]+(?:\.[0-9]+)?)%")
_PATTERN = re.compile(r"([0-9]+):([0-9]+)")
_QUANTIZATION = re.compile(r"W([0-9]+)A([0-9]+)(?:g([0-9]+))?")
_OFFICIAL_FLAG = re.compile(r"official-flag:([0-9]+(?:\.[0-9]+)?)%")
_LONGEST_CHARACTERS = 40
_EXAMPLES = "write a ratio such as '50%', a pattern such as '2:4', or bits such as 'W4A16' or 'W4A16g128'"


class Setting(Frozen):
    """A parsed setting. Exactly one of the families is filled in.

    `ratio` is the fraction of weights removed, in (0, 1); `official_flag` the ratio as a method's own program takes it,
    where that is not the fraction removed; `zeros_of` is (n, m): n zeros in every m consecutive input
    columns; `weight_bits`, `activation_bits` and `group_size` (0 for a whole row) describe a quantization.
    """

    name: str
    ratio: float | None = None
    official_flag: float | None = None
    zeros_of: tuple[PositiveInt, PositiveInt] | None = None
    weight_bits: PositiveInt | None = None
    activation_bits: PositiveInt | None = None
    group_size: NonNegativeInt = 0

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.ratio is not None and not 0 < self.ratio < 1:
            raise ValueError(f"setting {self.name!r}: a ratio lies between 0% and 100%, both excluded")
        if self.official_flag is not None and not 0 < self.official_flag < 1:
            raise ValueError(f"setting {self.name!r}: a flag lies between 0% and 100%, both excluded")
        if self.zeros_of is not None and self.zeros_of[0] >= self.zeros_of[1]:
            raise ValueError(f"setting {self.name!r}: of m columns fewer than m can be zero")
        return self

    @classmethod
    def parse(cls, name: str) -> Self:
        """Read a short name.

        Raises:
            ValueError: the text is none of the known forms, or an impossible value of one.
        """
        text = name if len(name) <= _LONGEST_CHARACTERS else ""
        if match := _RATIO.fullmatch(text):
            return cls(name=text, ratio=float(match[1]) / 100)
        if match := _OFFICIAL_FLAG.fullmatch(text):
            return cls(name=text, official_flag=float(match[1]) / 100)
        if match := _PATTERN.fullmatch(text):
            return cls(name=text, zeros_of=(int(match[1]), int(match[2])))
        if match := _QUANTIZATION.fullmatch(text):
            weight_bits, activation_bits, group_size = match.groups()
            return cls(
                name=text,
                weight_bits=int(weight_bits),
                activation_bits=int(activation_bits),
                group_size=int(group_size or 0),
            )
        raise ValueError(f"setting {quoted(name)} is not understood: {_EXAMPLES}")

    @property
    def sparsity(self) -> float | None:
        """The fraction of zeros that a pruning setting asks for; None for a quantization."""
        if self.zeros_of is not None:
            return self.zeros_of[0] / self.zeros_of[1]
        return self.ratio
