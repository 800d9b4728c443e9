"""The rotary embedding in one pass over queries and keys, where a model's own code takes ten."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

_FUNCTION = "apply_rotary_pos_emb"
"""What the modules of transformers' models call it."""
_ROUNDINGS = 4
"""Of the dtype: by so much at most may the two differ."""

Rotation = Callable[..., tuple[Tensor, Tensor]]


class Rotary:
    """Puts the one-pass rotation in the place of a model's own. `used` says whether the two do the same.

    That is found by computing both on random inputs: some families rotate neighbouring elements, or only some of them.
    """

    def __init__(self, model: Any, head_size: int) -> None:
        weight = model.get_input_embeddings().weight
        self._module = _module_of(model)
        own = getattr(self._module, _FUNCTION, None)
        self.used = (
            own is not None
            and _rotates_all(model.config)
            and head_size % 2 == 0
            and _are_alike(own, head_size, weight.dtype, weight.device)
        )

    @contextmanager
    def replaced(self) -> Iterator[None]:
        """While a model runs in here, it rotates in one pass."""
        if not self.used or self._module is None:
            yield
            return
        own = getattr(self._module, _FUNCTION)
        setattr(self._module, _FUNCTION, rotate_in_one_pass)
        try:
            yield
        finally:
            setattr(self._module, _FUNCTION, own)


def rotate_in_one_pass(query: Tensor, key: Tensor, cosines: Tensor, sines: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys [rows, heads, length, size], rotated (Su et al., "RoFormer", 2021, equation 34).

    `cosines` and `sines` of the angles are [1 or rows, length, size].
    """
    from harness.evaluation.scorer.rotary_kernel import rotate

    cosines, sines = cosines.contiguous(), sines.contiguous()
    return rotate(query, cosines, sines), rotate(key, cosines, sines)


def _rotates_all(config: Any) -> bool:
    """Whether every element of a head is rotated: the random angles would not tell, since they are for all."""
    share = (getattr(config, "rope_parameters", None) or {}).get("partial_rotary_factor")
    return (share or getattr(config, "partial_rotary_factor", None) or 1.0) == 1.0


def _module_of(model: Any) -> ModuleType | None:
    modules = (sys.modules[type(module).__module__] for module in model.modules())
    return next((module for module in modules if hasattr(module, _FUNCTION)), None)


@torch.inference_mode()
def _are_alike(own: Rotation, head_size: int, dtype: torch.dtype, device: torch.device) -> bool:
    generator = torch.Generator(device).manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=torch.float32).to(dtype)

    query, key = draw(2, 5, 3, head_size).transpose(1, 2), draw(2, 5, 1, head_size).transpose(1, 2)
    angles = draw(2, 5, head_size), draw(2, 5, head_size)
    try:
        theirs = own(query, key, *angles)
    except RuntimeError:
        return False
    tolerance = _ROUNDINGS * torch.finfo(dtype).eps
    return all(
        torch.allclose(mine.float(), their.float(), rtol=tolerance, atol=tolerance)
        for mine, their in zip(rotate_in_one_pass(query, key, *angles), theirs, strict=True)
    )
