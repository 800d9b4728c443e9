"""One tensor of a file, whatever the file's format."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

_NUMBERED_BLOCK = re.compile(r"(?:^|\.)\d+\.")


@dataclass(frozen=True)
class StoredTensor:
    """A tensor and where its bytes lie: `size_bytes` of the file `path`, from `begin` on.

    `dtype` is the header's own word, such as `BF16` or `Q4_K`. `shape` is that of torch, rows first.
    """

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    size_bytes: int

    @property
    def values(self) -> int:
        return math.prod(self.shape)

    @property
    def is_block_matrix(self) -> bool:
        """Whether it is a matrix of a numbered block: of a decoder, its linears. Norms and biases are vectors."""
        return len(self.shape) == 2 and _NUMBERED_BLOCK.search(self.name) is not None
