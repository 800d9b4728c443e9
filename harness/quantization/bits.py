"""Codes of few bits in a row of 32-bit words: dense, the lowest bits first, a code may lie across two words.

The bit order of compressed-tensors (from 0.19 on) and of GPTQ. Where the bits divide 32 no code crosses a word, and it
is the order of every version of both. AWQ has it, too, within words whose codes were reordered before.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

WORD_BITS = 32
_RUN = 32
"""Codes after which the positions within the words repeat: `_RUN` codes fill as many words as a code has bits."""


def pack_bits(codes: Tensor, bits: int) -> Tensor:
    """Integers [rows, n], each 0 to 2**bits - 1, as int32 [rows, ceil(n · bits / 32)]; unused bits are 0."""
    rows, count = codes.shape
    runs = -(-count // _RUN)
    padded = pad(codes, (0, runs * _RUN - count)).reshape(rows, runs, _RUN)
    words = torch.zeros(rows, runs, bits, dtype=torch.int32, device=codes.device)
    for position in range(_RUN):
        word, shift = divmod(position * bits, WORD_BITS)
        code = padded[:, :, position].to(torch.int32)
        words[:, :, word] |= code << shift
        if shift + bits > WORD_BITS:
            words[:, :, word + 1] |= code >> (WORD_BITS - shift)
    return words.view(rows, runs * bits)[:, : _words(count, bits)].contiguous()


def unpack_bits(words: Tensor, bits: int, count: int) -> Tensor:
    """The first `count` codes of each row of int32 [rows, words] as uint8 [rows, count]: the inverse of `pack_bits`."""
    rows = words.shape[0]
    runs = -(-count // _RUN)
    whole = pad(words[:, : _words(count, bits)], (0, runs * bits - _words(count, bits))).reshape(rows, runs, bits)
    codes = torch.empty(rows, runs, _RUN, dtype=torch.uint8, device=words.device)
    for position in range(_RUN):
        word, shift = divmod(position * bits, WORD_BITS)
        low_bits = min(bits, WORD_BITS - shift)
        code = (whole[:, :, word] >> shift) & (2**low_bits - 1)
        if low_bits < bits:
            code |= (whole[:, :, word + 1] & (2 ** (bits - low_bits) - 1)) << low_bits
        codes[:, :, position] = code.to(torch.uint8)
    return codes.view(rows, runs * _RUN)[:, :count].contiguous()


def _words(count: int, bits: int) -> int:
    return -(-count * bits // WORD_BITS)
