"""The 2:4 layout: two values and their places for each group of four inputs, 32 rows side by side."""

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.contract import Reason
from harness.errors import Unsupported

GROUP = 4
TILE_ROWS = 32
SEGMENT_INPUTS = 64
SEGMENT_GROUPS = SEGMENT_INPUTS // GROUP
PLACE_WORDS = 2 * TILE_ROWS
SEGMENT_WORDS = PLACE_WORDS + SEGMENT_GROUPS * TILE_ROWS
HALF_DTYPES = (torch.float16, torch.bfloat16)

_WEIGHTS_AT_ONCE = 2**24


@dataclass(frozen=True)
class TwoFourWeight:
    """A weight [rows, in_features] with at most two values other than zero in each group of four inputs.

    stream: int32 [tiles, segments, 576]. A tile is 32 rows and a segment 64 inputs, 16 groups; both are filled up with
    zeros. The first 64 words of a segment are its places, two words a row: four bits a group from the low bits on, of
    which the lower two say where in its group the first value stands, the upper two the second one, always further on.
    Then come the values, a group's two in one word, the first one in the low half: [4, 32, 4] words, the four groups of
    each row that lie beside each other, for 32 rows, and so four times.
    Bytes: 9/16 of the dense ones.
    """

    stream: Tensor
    rows: int
    in_features: int
    dtype: torch.dtype

    @property
    def held_bytes(self) -> int:
        return self.stream.nbytes

    @property
    def device(self) -> torch.device:
        return self.stream.device

    def clone(self) -> "TwoFourWeight":
        return TwoFourWeight(self.stream.clone(), self.rows, self.in_features, self.dtype)


def pack(weight: Tensor, *, name: str) -> TwoFourWeight:
    """Compress float16 or bfloat16 [rows, in_features]; `name` is the layer's, for messages. A zero's sign is lost.

    Raises:
        Unsupported: the dtype has no 16 bits, the groups do not divide the inputs, or a group holds three values.
    """
    check_dtype(weight, name)
    rows, in_features = weight.shape
    if in_features % GROUP:
        raise Unsupported(
            Reason.SHAPE,
            f"{name} has {in_features} inputs, which groups of {GROUP} do not divide",
            hint="serve this layer dense",
        )
    tiles, segments = -(-rows // TILE_ROWS), -(-in_features // SEGMENT_INPUTS)
    stream = torch.empty(tiles, segments, SEGMENT_WORDS, dtype=torch.int32, device=weight.device)
    step = max(1, _WEIGHTS_AT_ONCE // in_features // TILE_ROWS)
    for start in range(0, tiles, step):
        part = weight[start * TILE_ROWS : (start + step) * TILE_ROWS]
        part = torch.nn.functional.pad(part, (0, -in_features % SEGMENT_INPUTS, 0, -len(part) % TILE_ROWS))
        stream[start : start + step] = _pack_tiles(part.view(-1, TILE_ROWS, segments, SEGMENT_GROUPS, GROUP), name)
    return TwoFourWeight(stream, rows, in_features, weight.dtype)


def unpack(packed: TwoFourWeight) -> Tensor:
    """The dense weight [rows, in_features]."""
    tiles, segments, _ = packed.stream.shape
    shifts = GROUP * torch.arange(8, device=packed.device)
    words = packed.stream[..., :PLACE_WORDS].reshape(tiles, segments, TILE_ROWS, 2, 1)
    nibbles = ((words >> shifts) & 15).flatten(3).long()
    places = torch.stack((nibbles & 3, nibbles >> 2), dim=-1)
    values = packed.stream[..., PLACE_WORDS:].view(tiles, segments, 4, TILE_ROWS, 4).transpose(2, 3)
    values = values.contiguous().view(packed.dtype).view(places.shape)
    dense = torch.zeros(*nibbles.shape, GROUP, dtype=packed.dtype, device=packed.device).scatter_(-1, places, values)
    whole = dense.transpose(1, 2).reshape(tiles * TILE_ROWS, segments * SEGMENT_INPUTS)
    return whole[: packed.rows, : packed.in_features].contiguous()


def check_dtype(weight: Tensor, name: str) -> None:
    if weight.dtype not in HALF_DTYPES:
        raise Unsupported(
            Reason.DTYPE,
            f"{name} is {str(weight.dtype).removeprefix('torch.')}, and the sparse kernels read 16-bit weights",
            hint="ask for float16 or bfloat16",
        )


def _pack_tiles(groups: Tensor, name: str) -> Tensor:
    """The stream [tiles, segments, 576] of weights [tiles, 32, segments, 16, 4]."""
    tiles, _, segments = groups.shape[:3]
    present = groups != 0
    if int(present.sum(-1).max()) > 2:
        raise Unsupported(
            Reason.FORMAT,
            f"{name} is not 2:4 sparse: a group of four inputs holds more than two values",
            hint="prune it with the setting 2:4, or serve it with the gap layout",
        )
    first, second = _places(present)
    values = groups.gather(-1, torch.stack((first, second), dim=-1))
    values = torch.where(values == 0, torch.zeros_like(values), values)
    values = values.view(torch.int32).view(tiles, TILE_ROWS, segments, 4, 4).permute(0, 2, 3, 1, 4)
    shifts = GROUP * torch.arange(8, device=groups.device)
    nibbles = (first | (second << 2)).view(tiles, TILE_ROWS, segments, 2, 8)
    words = (nibbles << shifts).sum(-1).to(torch.int32).transpose(1, 2)
    return torch.cat((words.reshape(tiles, segments, -1), values.reshape(tiles, segments, -1)), dim=-1)


def _places(present: Tensor) -> tuple[Tensor, Tensor]:
    """Two places in rising order, int64 [...], that include those present, bool [..., 4], of which two are at most."""
    place = torch.arange(GROUP, device=present.device)
    lowest = torch.where(present, place, GROUP).amin(-1)
    highest = torch.where(present, place, -1).amax(-1)
    first = torch.where(lowest < highest, lowest, 0)
    return first, highest.clamp(min=1)
