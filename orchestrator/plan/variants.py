"""Which variant of a method a backend serves from its codes, at the width that is asked for and as near as can be."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from harness.contract import CheckpointFormat, Device, MethodDescription, Operation, Scalar, Setting
from orchestrator.errors import BadManifest
from orchestrator.images.catalog import ImageCatalog
from orchestrator.images.image import Image
from orchestrator.plan.exporting import Way, find_way
from orchestrator.plan.options import check_options
from orchestrator.plan.resolving import accepts, bits_name
from orchestrator.plan.serving import compressed_checkpoint, verdict
from orchestrator.plan.support import Checkpoint, Refused, Served, SupportTable, support_of

_MOST_OPTIONS = 2
_MOST_NAMES = 6
_NOT_QUANTIZED = 16


@dataclass(frozen=True)
class Asked:
    """A method at a setting. `any_group`: nobody asked for the setting's group, so that another may be chosen."""

    image: Image
    method: MethodDescription
    setting: Setting
    options: Mapping[str, Scalar] = field(default_factory=dict)
    any_group: bool = True

    @property
    def text(self) -> str:
        """The setting with the options, in words."""
        options = " and ".join(f"{name}={str(value).lower()}" for name, value in self.options.items())
        return f"{self.setting.name} with {options}" if options else self.setting.name


@dataclass(frozen=True)
class Target:
    """A backend, by its full name, and what is to be compressed for it.

    `input_sizes` are those of the model's linears, as far as they are known: groups have to divide them.
    """

    backend: str
    catalog: ImageCatalog
    device: Device
    dense: Checkpoint
    input_sizes: Sequence[int] = ()
    _ways: dict[Checkpoint, Way | Refused] = field(default_factory=dict, repr=False, compare=False)

    @property
    def runs(self) -> bool:
        """Whether the backend runs on the device at all."""
        return self.device.kind in self._table.versions

    @cached_property
    def _table(self) -> SupportTable:
        return support_of(*self.catalog.backends[self.backend])

    def way(self, asked: Asked) -> Way | Refused:
        made = compressed_checkpoint(self.dense, asked.method, asked.setting, asked.options)
        if made not in self._ways:
            self._ways[made] = find_way(self.backend, self.catalog, self.device, made, dense_fallback=False)
        return self._ways[made]

    def answer(self, asked: Asked) -> Served | Refused:
        """Of the support table alone, without any export."""
        made = compressed_checkpoint(self.dense, asked.method, asked.setting, asked.options)
        return verdict(self.backend, self.catalog, self.device, made)

    def serves(self, asked: Asked) -> bool:
        """Whether it computes from what the method made, and not from dense weights in its place."""
        way = self.way(asked)
        return isinstance(way, Way) and not way.answer.as_dense

    @cached_property
    def groups(self) -> tuple[int, ...]:
        """The group sizes that its table or an export names, the largest first, and that fit the model."""
        named = {size for row in self._table.rows for size in row.group_sizes}
        for one in self.catalog.offering(Operation.EXPORT):
            named |= {size for export in one.description.exports for size in export.group_sizes}
        fitting = (size for size in named if size and not any(inputs % size for inputs in self.input_sizes))
        return tuple(sorted(fitting, reverse=True))


def served_variant(asked: Asked, target: Target) -> Asked | None:
    """The variant with the fewest changes that the backend serves; None where there is none.

    What is asked for itself, where that is served, or where it is nothing that is quantized or packed.
    """
    if asked.setting.weight_bits is None:
        return None if isinstance(target.way(asked), Refused) else asked
    changed = sorted(_variants(asked, target), key=lambda pair: pair[0])
    found = next(
        (one for _, one in changed if target.serves(one) and (one.options == asked.options or _takes(one))), None
    )
    if found is None and isinstance(target.way(asked), Way):
        return asked
    return found


def closest(asked: Asked, target: Target) -> str | None:
    """In a clause, what the backend serves that is nearest to something that it does not serve; None: nothing is.

    First another variant at this width, then the method at another width, then other methods at the nearest width.
    """
    if asked.setting.weight_bits is None or not target.runs:
        return None
    own = served_variant(asked, target)
    if own is not None:
        return f"it serves {asked.method.name} {own.text}"
    at_other_widths = _nearest(asked, [(asked.image, asked.method)], target)
    if at_other_widths:
        return f"closest there is {asked.method.name} {at_other_widths[0].text}"
    others = _nearest(asked, list(target.catalog.methods.values()), target)
    if not others and target.input_sizes:
        elsewhere = closest(asked, replace(target, input_sizes=()))
        sizes = ", ".join(map(str, target.input_sizes))
        return elsewhere and f"{elsewhere}, but those groups do not divide this model's inputs ({sizes})"
    if not others:
        return None
    names = [one.method.name for one in others if one.text == others[0].text]
    listed = ", ".join(names[:_MOST_NAMES]) + (" and others" if len(names) > _MOST_NAMES else "")
    return f"closest there is {others[0].text}, by {listed}"


class Advice:
    """`closest` of each variant on each backend, found once for a whole plan."""

    def __init__(self, catalog: ImageCatalog, device: Device) -> None:
        self._catalog = catalog
        self._device = device
        self._targets: dict[Any, Target] = {}
        self._found: dict[Any, str | None] = {}

    def closest(self, asked: Asked, backend: str, dense: Checkpoint, input_sizes: tuple[int, ...]) -> str | None:
        where = (backend, dense, input_sizes)
        if where not in self._targets:
            self._targets[where] = Target(backend, self._catalog, self._device, dense, input_sizes)
        what = (*where, asked.method.name, asked.setting, tuple(asked.options.items()))
        if what not in self._found:
            self._found[what] = closest(asked, self._targets[where])
        return self._found[what]


def _variants(asked: Asked, target: Target) -> Iterator[tuple[int, Asked]]:
    """What is asked for and all that differs from it in its group or in up to two options, with how much differs."""
    if asked.setting.activation_bits not in (None, _NOT_QUANTIZED):
        yield 0, asked  # rows alone, in the one layout that says how activations are rounded
        return
    for setting in _settings(asked, target):
        for options in _option_sets(asked):
            variant = replace(asked, setting=setting, options={**asked.options, **options})
            yield (setting != asked.setting) + len(options), variant


def _settings(asked: Asked, target: Target) -> Iterator[Setting]:
    yield asked.setting
    if asked.any_group:
        for size in target.groups:
            setting = Setting.parse(f"{bits_name(asked.setting)}g{size}")
            if setting != asked.setting and accepts(asked.method, setting):
                yield setting


def _option_sets(asked: Asked) -> Iterator[dict[str, Scalar]]:
    """Some of the options that the method's description ties to a property or a layout, and that are left open."""
    method = asked.method
    known = [pair for traits in method.traits for pair in traits.options.items()]
    known += [("layout", name) for name, layout in method.layouts.items() if layout is not CheckpointFormat.DENSE]
    free = [pair for pair in dict.fromkeys(known) if pair[0] not in asked.options]
    for count in range(_MOST_OPTIONS + 1):
        for pairs in itertools.combinations(free, count):
            if len(dict(pairs)) == count:
                yield dict(pairs)


def _takes(variant: Asked) -> bool:
    try:
        check_options(variant.image, "methods", variant.method.name, variant.options)
    except BadManifest:
        return False
    return True


def _nearest(asked: Asked, methods: Sequence[tuple[Image, MethodDescription]], target: Target) -> list[Asked]:
    """What of the methods' settings is served, those at the nearest width alone."""
    found: list[tuple[tuple[int, int], Asked]] = []
    for image, method in methods:
        settings = dict.fromkeys(bits_name(one) for one in map(Setting.parse, method.patterns) if one.weight_bits)
        for setting in map(Setting.parse, settings):
            one = served_variant(Asked(image, method, setting), target)
            if one is not None and target.serves(one):
                found.append((_distance(asked.setting, setting), one))
    nearest = min((distance for distance, _ in found), default=None)
    return [one for distance, one in found if distance == nearest]


def _distance(one: Setting, other: Setting) -> tuple[int, int]:
    def bits(value: int | None) -> int:
        return value or _NOT_QUANTIZED

    return (
        abs(bits(one.weight_bits) - bits(other.weight_bits)),
        abs(bits(one.activation_bits) - bits(other.activation_bits)),
    )
