"""A manifest's exclusions as the plan and the scores follow them, each held against what the manifest has."""

from collections.abc import Iterator, Mapping, Sequence

from harness.contract import unknown
from orchestrator.errors import BadManifest, located
from orchestrator.images.catalog import ImageCatalog
from orchestrator.manifest import Manifest
from orchestrator.manifest.excluding import DENSE, ExclusionEntry, Exclusions, resolve_exclusions
from orchestrator.plan.resolving import resolve_method, resolve_setting
from orchestrator.tracks import parts_of_task

_NOTHING = "it would take nothing away, as the manifest has nothing of it"
_HINT = "take the exclusion out, or correct it; `orchestrator manifest show` lists what the manifest has"


def planned_exclusions(manifest: Manifest, catalog: ImageCatalog) -> Exclusions:
    """What the manifest leaves out.

    Raises:
        BadManifest: an exclusion names something that the manifest does not have, or takes nothing away.
    """
    compressions = tuple(_compressions(manifest, catalog))
    labels: dict[str, list[str]] = {}
    for label, method, _ in compressions:
        labels.setdefault(method, []).append(label)
    known = _known(manifest, catalog, compressions)
    resolved = resolve_exclusions(manifest.exclude, labels, catalog.full_name, manifest.scoring.engine)
    for index, entry in enumerate(resolved.entries):
        with located("exclude", index):
            for name, values in manifest.exclude[index].given.items():
                with located(name):
                    _refuse_unknown(name, values, known, catalog)
            _refuse_idle(entry, manifest, compressions)
    return resolved


def _compressions(manifest: Manifest, catalog: ImageCatalog) -> Iterator[tuple[str, str, str]]:
    """Of each entry the name that its subject has, its method's, and its setting's."""
    for index, entry in enumerate(manifest.compress):
        with located("compress", index):
            with located("method"):
                _, method = resolve_method(entry.method, catalog)
            with located("setting"):
                yield entry.name or method.name, method.name, resolve_setting(entry, method).name


def _known(
    manifest: Manifest, catalog: ImageCatalog, compressions: Sequence[tuple[str, str, str]]
) -> Mapping[str, Sequence[str]]:
    """All that an exclusion can name, by its fields."""
    evaluate, benchmark = manifest.evaluate, manifest.benchmark
    tasks = evaluate.tasks if evaluate else ()
    tracks = {track.value for task in tasks for track, _ in parts_of_task(task, manifest.scoring)}
    tracks |= {3} if compressions else set()
    tracks |= {4} if manifest.profile else set()
    tracks |= {5} if benchmark else set()
    engines = (*(evaluate.engine if evaluate else ()), *(benchmark.backends if benchmark else ()))
    return {
        "model": [model.name for model in manifest.models],
        "method": [DENSE, *(name for label, method, _ in compressions for name in (label, method))],
        "setting": [setting for _, _, setting in compressions],
        "task": tasks,
        "backend": list(map(catalog.full_name, engines)),
        "track": list(map(str, sorted(tracks))),
    }


def _refuse_unknown(
    name: str, values: Sequence[str | int], known: Mapping[str, Sequence[str]], catalog: ImageCatalog
) -> None:
    for index, value in enumerate(values):
        text = catalog.full_name(str(value)) if name == "backend" else str(value)
        if text not in known[name]:
            with located(index):
                what = unknown(f"{name} of the manifest", text, set(known[name]))
                raise BadManifest(f"{what}: {_NOTHING}", hint=_HINT)


def _refuse_idle(entry: ExclusionEntry, manifest: Manifest, compressions: Sequence[tuple[str, str, str]]) -> None:
    variants: list[tuple[str | None, str | None]] = [(label, setting) for label, _, setting in compressions]
    if not entry.is_whole or not (entry.method or entry.setting):
        variants.append((None, None))
    matched = any(
        entry.is_about(model.name, method, setting) for model in manifest.models for method, setting in variants
    )
    evaluate, benchmark = manifest.evaluate, manifest.benchmark
    timed = benchmark is not None and set(entry.backend) & set(benchmark.backends)
    if not matched:
        raise BadManifest(f"no compression is of all that this exclusion names: {_NOTHING}", hint=_HINT)
    if entry.backend and not entry.task and not timed:
        raise BadManifest(f"nothing is timed on {', '.join(entry.backend)}: {_NOTHING}", hint=_HINT)
    if entry.backend and entry.task and not (evaluate and set(entry.backend) & set(evaluate.engine)):
        raise BadManifest(f"nothing is evaluated by {', '.join(entry.backend)}: {_NOTHING}", hint=_HINT)
