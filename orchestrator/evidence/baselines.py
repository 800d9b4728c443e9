"""Which variants of a run are the baselines of which others: the same setting, on the same grid where there is one."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from harness.contract import (
    CheckpointDescriptor,
    Frozen,
    MethodDescription,
    Operation,
    Quantization,
    Scalar,
    Setting,
)
from orchestrator.evidence.value import Variant
from orchestrator.images.catalog import ImageCatalog
from orchestrator.plan.baselines import is_baseline_of
from orchestrator.store import RunRecord, StageRecord


class Baseline(Frozen):
    """`differs` says in words what is otherwise with the baseline's grid, for instance `with symmetric weights`."""

    variant: Variant
    differs: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Compressed:
    """What a run asked of one variant, and the grid that it got: None where there is none, or no result."""

    method: MethodDescription
    setting: Setting
    options: Mapping[str, Scalar]
    quantization: Quantization | None


def run_baselines(
    record: RunRecord, results: Mapping[str, StageRecord], catalog: ImageCatalog
) -> dict[Variant, tuple[Baseline, ...]]:
    """The baselines of each variant that has some in this run. A method of no image that is here has none."""
    made = dict(_compressed(record, results, catalog))
    found = {}
    for variant, one in made.items():
        rivals = {
            other: rival
            for other, rival in made.items()
            if rival.setting == one.setting and is_baseline_of(rival.method, one.method, one.setting, one.options)
        }
        baselines = tuple(Baseline(variant=other, differs=_differs(rival, one)) for other, rival in rivals.items())
        alike = tuple(baseline for baseline in baselines if not baseline.differs)
        if baselines:
            found[variant] = alike or baselines
    return found


def _compressed(
    record: RunRecord, results: Mapping[str, StageRecord], catalog: ImageCatalog
) -> Iterator[tuple[Variant, _Compressed]]:
    """The first model's stage speaks for the variant."""
    seen = set()
    for name, state in record.stages.items():
        if state.operation is not Operation.COMPRESS or state.subject is None:
            continue
        variant = Variant.of(state.subject)
        asked = state.parameters
        if variant in seen or asked["method"] not in catalog.methods:
            continue
        seen.add(variant)
        artifact = results[name].artifact if name in results else None
        quantization = artifact.quantization if isinstance(artifact, CheckpointDescriptor) else None
        _, method = catalog.methods[asked["method"]]
        setting = Setting.parse(asked["setting"]["name"])
        yield variant, _Compressed(method, setting, asked.get("options", {}), quantization)


def _differs(baseline: _Compressed, of: _Compressed) -> tuple[str, ...]:
    """Bits and groups are those of the setting, and so the same."""
    theirs, ours = baseline.quantization, of.quantization
    if theirs is None or ours is None:
        return ()
    found = []
    if theirs.symmetric != ours.symmetric:
        found.append(f"with {_symmetry(theirs.symmetric)} weights")
    if theirs.activations_symmetric != ours.activations_symmetric:
        found.append(f"with {_symmetry(theirs.activations_symmetric)} activations")
    if theirs.attention_bits != ours.attention_bits:
        kept = theirs.attention_bits is None
        found.append(f"with queries, keys and values {'as they are' if kept else f'of {theirs.attention_bits} bits'}")
    elif theirs.attention_rounding != ours.attention_rounding:
        found.append(f"with queries, keys and values rounded by {theirs.attention_rounding.value}")
    return tuple(found)


def _symmetry(symmetric: bool) -> str:
    return "symmetric" if symmetric else "asymmetric"
