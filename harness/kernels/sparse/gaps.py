"""The gap layout for unstructured zeros: values with the distance of each from the one before, 32 rows side by side."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harness.contract import Reason
from harness.errors import Unsupported
from harness.kernels.sparse.two_four import check_dtype

TILE_ROWS = 32
SEGMENT = 32
"""Entries of a row in one segment: as many gaps of four bits as 16 bytes hold, and 64 bytes of values."""
PLANES = 5
PLANE_WORDS = 4
LARGEST_GAP = 15

_INPUTS_LIMIT = 2**16
_WEIGHTS_AT_ONCE = 2**24


@dataclass(frozen=True)
class GapWeight:
    """A weight [rows, in_features] with any zeros, as streams of entries: one a row, of a gap and a value each.

    A row's entries are its values in the order of the inputs. An entry's input is that of the entry before it plus its
    gap, 0 to 15; where values lie further apart, entries of value 0 stand between. Rows are sorted by their number of
    entries, and each 32 of them, a tile, take as many segments of 32 entries as the longest one needs; the others end
    in entries of value and gap 0.

    stream: int32 [segments, 5, 32, 4], tile after tile. Plane 0 has each row's gaps, eight a word from its low bits on,
    planes 1 to 4 its values, two a word.
    starts: int16, read as unsigned, [segments, 32]: the input that the segment's first gap is added to.
    ends: int32 [tiles + 1]: a 0, and after how many segments each tile ends.
    order: int32 [tiles, 32]: which row each row of a tile is; `rows` where it is none.
    longest: how many segments the longest tile has.
    """

    stream: Tensor
    starts: Tensor
    ends: Tensor
    order: Tensor
    rows: int
    in_features: int
    longest: int
    dtype: torch.dtype

    @property
    def held_bytes(self) -> int:
        return self.stream.nbytes + self.starts.nbytes + self.ends.nbytes + self.order.nbytes

    @property
    def device(self) -> torch.device:
        return self.stream.device

    def clone(self) -> "GapWeight":
        return replace(
            self,
            stream=self.stream.clone(),
            starts=self.starts.clone(),
            ends=self.ends.clone(),
            order=self.order.clone(),
        )


def pack(weight: Tensor, *, name: str) -> GapWeight:
    """Compress float16 or bfloat16 [rows, in_features]; `name` is the layer's, for messages. A zero's sign is lost.

    Raises:
        Unsupported: the dtype has no 16 bits, or the layer has more inputs than 16 bits count.
    """
    check_dtype(weight, name)
    rows, in_features = weight.shape
    if in_features > _INPUTS_LIMIT:
        raise Unsupported(
            Reason.SHAPE,
            f"{name} has {in_features} inputs, and the gap layout counts to {_INPUTS_LIMIT}",
            hint="serve this layer dense",
        )
    device = weight.device
    step = max(1, _WEIGHTS_AT_ONCE // in_features // TILE_ROWS) * TILE_ROWS
    parts = [weight[start : start + step] for start in range(0, rows, step)]
    lengths = torch.cat([_entries_of_rows(part) for part in parts])
    missing = -rows % TILE_ROWS
    lengths, order = torch.nn.functional.pad(lengths, (0, missing)).sort(descending=True, stable=True)
    segments = -(-lengths.view(-1, TILE_ROWS)[:, 0] // SEGMENT)
    ends = torch.nn.functional.pad(segments.cumsum(0), (1, 0))
    total = int(ends[-1])
    stream = torch.zeros(total, PLANES, TILE_ROWS, PLANE_WORDS, dtype=torch.int32, device=device)
    starts = torch.zeros(total, TILE_ROWS, dtype=torch.int16, device=device)
    for start in range(0, rows, step):
        chosen = order[start : start + step]
        part = torch.nn.functional.pad(weight, (0, 0, 0, missing))[chosen] if missing else weight[chosen]
        tile, tiles = start // TILE_ROWS, len(chosen) // TILE_ROWS
        inside = slice(int(ends[tile]), int(ends[tile + tiles]))
        _fill(part, ends[tile : tile + tiles] - ends[tile], stream[inside], starts[inside])
    return GapWeight(
        stream,
        starts,
        ends.to(torch.int32),
        order.clamp(max=rows).view(-1, TILE_ROWS).to(torch.int32),
        rows=rows,
        in_features=in_features,
        longest=int(segments.max()),
        dtype=weight.dtype,
    )


def unpack(packed: GapWeight) -> Tensor:
    """The dense weight [rows, in_features]."""
    shifts = 4 * torch.arange(8, device=packed.device)
    gaps = ((packed.stream[:, 0].unsqueeze(-1) >> shifts) & LARGEST_GAP).flatten(2)
    inputs = gaps.cumsum(-1) + (packed.starts.long() & 0xFFFF).unsqueeze(-1)
    values = packed.stream[:, 1:].permute(0, 2, 1, 3).contiguous().view(packed.dtype).flatten(2)
    tile = torch.repeat_interleave(packed.ends.diff().long())
    target = packed.order[tile].unsqueeze(-1).expand_as(inputs).long()
    dense = torch.zeros(packed.rows, packed.in_features, dtype=packed.dtype, device=packed.device)
    kept = values != 0
    dense[target[kept], inputs[kept]] = values[kept]
    return dense


def _entries_of_rows(weight: Tensor) -> Tensor:
    """How many entries each row of weight [rows, in_features] makes, int64 [rows]."""
    row, _, gap = _values_of(weight)
    return torch.zeros(len(weight), dtype=torch.int64, device=weight.device).index_add_(0, row, _entries(gap))


def _values_of(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Row, input and gap of each value other than zero, in order. A row's first one has gap 0."""
    row, column = weight.nonzero(as_tuple=True)
    gap = torch.nn.functional.pad(column.diff(), (1, 0))
    first = torch.nn.functional.pad(row.diff() != 0, (1, 0), value=True)[: len(row)]
    return row, column, gap[: len(row)].masked_fill(first, 0)


def _entries(gap: Tensor) -> Tensor:
    """How many entries bridge a gap: one, and one more for each further 15 inputs."""
    return 1 + (gap - 1).clamp(min=0) // LARGEST_GAP


def _fill(weight: Tensor, begins: Tensor, stream: Tensor, starts: Tensor) -> None:
    """Write the tiles of weight [tiles · 32, in_features], the segments of each from `begins` on."""
    row, column, gap = _values_of(weight)
    if len(row) == 0:
        return
    count = _entries(gap)
    last = count.cumsum(0) - 1
    value_of = torch.repeat_interleave(count)
    behind = last[value_of] - torch.arange(len(value_of), device=weight.device)
    lengths = torch.zeros(len(weight), dtype=torch.int64, device=weight.device).index_add_(0, row, count)
    row, gap = row[value_of], gap[value_of]
    entry = torch.arange(len(row), device=weight.device) - (lengths.cumsum(0) - lengths)[row]
    final = gap - LARGEST_GAP * (count[value_of] - 1)
    own = torch.where(behind > 0, LARGEST_GAP, final)
    before = column[value_of] - final - LARGEST_GAP * behind
    segment = begins[row // TILE_ROWS] + entry // SEGMENT
    lane, place = row % TILE_ROWS, entry % SEGMENT
    gaps = torch.zeros(len(stream), TILE_ROWS, SEGMENT, dtype=torch.int64, device=weight.device)
    gaps[segment, lane, place] = own
    shifts = 4 * torch.arange(8, device=weight.device)
    stream[:, 0] = (gaps.view(len(stream), TILE_ROWS, PLANE_WORDS, 8) << shifts).sum(-1).to(torch.int32)
    values = torch.zeros(len(stream), TILE_ROWS, SEGMENT, dtype=weight.dtype, device=weight.device)
    kept = behind == 0
    values[segment[kept], lane[kept], place[kept]] = weight[weight != 0]
    stream[:, 1:] = values.view(torch.int32).view(len(stream), TILE_ROWS, PLANES - 1, PLANE_WORDS).transpose(1, 2)
    opening = place == 0
    starts[segment[opening], lane[opening]] = before[opening].to(torch.int16)
