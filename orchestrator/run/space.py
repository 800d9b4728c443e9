"""Room on the disk: what a run will need of it at its peak, against what is free."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import StoreError
from orchestrator.images.catalog import ImageCatalog
from orchestrator.manifest import KeepCheckpoints
from orchestrator.run.keeping import Peak, peak_of
from orchestrator.run.known import Known
from orchestrator.run.sizes import Footprint, sizes_of
from orchestrator.stages import Stage

RESERVE_BYTES = 500 * 2**20
"""For results, logs and data sets, and so that the disk is not filled to the last byte."""


@dataclass(frozen=True)
class DiskNeed:
    """What the stages still to run will take of the disk.

    `least` is the peak of the same without any checkpoint kept. `unknown` says in words what is counted as nothing.
    """

    stages: tuple[Stage, ...]
    footprints: Mapping[str, Footprint]
    keep: KeepCheckpoints
    peak: Peak
    least: Peak
    unknown: tuple[str, ...]

    @property
    def written_bytes(self) -> int:
        """All that is written, whether it stays or not."""
        taken = [self.footprints[stage.id] for stage in self.stages if stage.id in self.footprints]
        return sum(one.made_bytes for one in taken)


def disk_need(
    stages: Sequence[Stage], known: Known, weights: Mapping[str, int], catalog: ImageCatalog, keep: KeepCheckpoints
) -> DiskNeed:
    """Of what is missing, one stage after the other; `stages` are the plan's, `weights` the bytes of its models."""
    sizes = sizes_of(stages, weights, catalog, known.stored)
    missing = tuple(known.missing)
    peak, least = (peak_of(missing, sizes.footprints, one) for one in (keep, KeepCheckpoints.NONE))
    return DiskNeed(missing, sizes.footprints, keep, peak, least, sizes.unknown)


def check_space(store: Path, need: DiskNeed) -> tuple[str, ...]:
    """Refuse a run that cannot fit; returns what could not be judged.

    Raises:
        StoreError: the disk has less free than the run needs.
    """
    free = shutil.disk_usage(store).free
    if free < need.peak.most_bytes + RESERVE_BYTES:
        ways = ["free space with `orchestrator clean`", "choose another disk with --store"]
        if free >= need.least.most_bytes + RESERVE_BYTES:
            ways.append(f"write `keep_checkpoints: none` into the manifest, with which it needs {_gib(need.least)}")
        raise StoreError(
            f"this run needs about {_gib(need.peak)} in {store} at its peak, {need.peak.at}, and"
            f" {free / 2**30:.1f} GiB are free",
            hint=f"{', '.join(ways[:-1])}, or {ways[-1]}",
        )
    return tuple(f"space for {one} was not checked: how large that is, is not known beforehand" for one in need.unknown)


def _gib(peak: Peak) -> str:
    return f"{(peak.most_bytes + RESERVE_BYTES) / 2**30:.1f} GiB"
