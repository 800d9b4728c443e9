"""`artifact pack`: a run and all that its figures follow from, in one file that says the same wherever it is made."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.contract import CheckpointDescriptor, DatasetDescriptor, Sha256
from orchestrator.artifact.archive import SUMS_NAME, write
from orchestrator.artifact.contents import (
    CLAIMS_FOLDER,
    CONTENTS_NAME,
    CRATE_NAME,
    ENVIRONMENT_NAME,
    IMAGES_FOLDER,
    MANIFEST_NAME,
    README_NAME,
    SCORES_NAME,
    SOURCE_FOLDER,
    STORE_FOLDER,
    VERDICTS_FOLDER,
    Contents,
    Scoring,
)
from orchestrator.artifact.crate import INSTALL, can_describe, crate_metadata
from orchestrator.artifact.figures import make_figures
from orchestrator.artifact.licences import SHARED
from orchestrator.artifact.readme import readme
from orchestrator.artifact.records import dumped, run_files, stage_files
from orchestrator.artifact.source import SourceFiles, source_files
from orchestrator.artifact.withholding import Withholding
from orchestrator.errors import BadImage, StoreError
from orchestrator.host.scratch import own_scratch
from orchestrator.images.catalog import ImageCatalog
from orchestrator.images.image import Image
from orchestrator.run.facts import program_version
from orchestrator.score.claims_file import read_claims
from orchestrator.store import RunRecord, StageRecord, Store
from orchestrator.store.history import as_it_is
from orchestrator.store.versioned import Unreadable

_CHECKPOINTS, _METADATA = "checkpoints: ", "RO-Crate metadata: "
OPTIONAL = (_CHECKPOINTS, _METADATA)
"""How sentences about something missing begin that take away nothing which figures follow from."""
_NAMED = 3
"""Of a list in a sentence."""


@dataclass(frozen=True)
class Wanted:
    """What to pack beside what every artifact holds. `claims` are files of claims, by the names that they get.

    `harness_of`: a commit; see `source_files`. `incomplete`: also a run that has not ended, or of which something
    stored is damaged.
    """

    claims: Mapping[str, Path]
    checkpoints: bool = False
    data: bool = False
    logs: bool = False
    with_host: bool = False
    incomplete: bool = False
    harness_of: str | None = None


@dataclass
class _Collected:
    """Files by their names in the artifact, and what is to be said of them."""

    files: dict[str, bytes | Path] = field(default_factory=dict)
    known: dict[str, Sha256] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    holds: list[str] = field(default_factory=list)


def pack(store: Store, run: str, own_images: Sequence[Image], output: Path, wanted: Wanted) -> Contents:
    """Write the artifact of a run to `output`. The same store, run and options give the same bytes.

    Raises:
        StoreError: the run has not ended, or something of it cannot be read, and that is not `wanted`; or there is no
            such commit.
        BadImage: neither the images of its commit nor those here can be read.
        BadArchive: a file's name cannot be packed.
        OSError: something cannot be read or written.
    """
    opened = as_it_is(store, store.runs.load(run))
    record = opened.record
    unreadable = (*opened.unreadable, *store.imported.unreadable(record.run))
    if not wanted.incomplete:
        _require_whole(record, unreadable)
    stages = _stages(record, store)
    withholding = Withholding([one.provenance.host for one in stages.values()], with_host=wanted.with_host)
    collected = _Collected(missing=[f"{one.what}: {one.reason}" for one in unreadable])
    if record.ended is None:
        collected.missing.append("the run has not ended")
    collected.files |= dict(run_files(record, store, withholding))
    for stage in stages.values():
        collected.files |= dict(stage_files(stage, store, withholding, logs=wanted.logs))
    collected.holds += ["run record", "results", "outcomes of items", *(["logs"] if wanted.logs else [])]
    _note_requests(collected, stages)
    source = source_files(record.facts.commit, own_images, wanted.harness_of)
    collected.files |= source.files
    other = _of_other_source(stages, source)
    collected.files |= {f"{CLAIMS_FOLDER}/{name}.yaml": path.read_bytes() for name, path in wanted.claims.items()}
    collected.files[MANIFEST_NAME] = dumped(withholding.document(record.manifest_document))
    collected.files[ENVIRONMENT_NAME] = dumped(environments(record, stages))
    _add_artifacts(collected, stages, store, wanted)
    scoring = Scoring()
    collected.files |= _figures(collected.files, record.run, scoring)
    return _finish(collected, record, source, other, withholding, scoring, len(stages), output)


def _require_whole(record: RunRecord, unreadable: Sequence[Unreadable]) -> None:
    hint = "`--incomplete` packs what is there, and says in it what is missing"
    if record.ended is None:
        raise StoreError(f"the run {record.run} has not ended", hint=f"run its manifest again to its end; {hint}")
    if unreadable:
        more = f", and {len(unreadable) - 1} more" if len(unreadable) > 1 else ""
        raise StoreError(f"{unreadable[0].message}{more}", hint=f"run its manifest again; {hint}")


def _stages(record: RunRecord, store: Store) -> dict[str, StageRecord]:
    """The stages with a result, by their names. `record` is as it can be read."""
    found = {}
    for name, state in record.stages.items():
        stored = store.read(state.key) if state.key is not None and state.has_result else None
        if stored is not None:
            found[name] = stored
    return found


def _note_requests(collected: _Collected, stages: Mapping[str, StageRecord]) -> None:
    keys = {one.provenance.key for one in stages.values()}
    absent = [key for key in keys if f"{STORE_FOLDER}/stages/{key}/request.json" not in collected.files]
    if len(absent) < len(keys):
        collected.holds.append("requests")
    if absent:
        collected.missing.append(f"the requests of {len(absent)} results, which the store does not have")


def _of_other_source(stages: Mapping[str, StageRecord], source: SourceFiles) -> tuple[str, ...]:
    digests = source_digests(source.files)
    return tuple(name for name, stage in stages.items() if any(True for _ in differing_source(stage, digests)))


def source_digests(files: Mapping[str, bytes]) -> dict[str, Sha256]:
    """sha256 of each packed file of source, by the name that a stage's key has it under."""
    return {
        name.removeprefix(f"{SOURCE_FOLDER}/"): hashlib.sha256(content).hexdigest()
        for name, content in files.items()
        if name.startswith(f"{SOURCE_FOLDER}/")
    }


def differing_source(stage: StageRecord, digests: Mapping[str, Sha256]) -> Iterator[str]:
    """The files that a stage's key names and that are other ones, or none, in the packed source."""
    code = stage.provenance.material.get("code")
    if not isinstance(code, dict):
        yield "all of it: its key does not name the files"
        return
    yield from (name for name, digest in code.items() if digests.get(name) != digest)


def environments(record: RunRecord, stages: Mapping[str, StageRecord]) -> dict[str, Any]:
    """What the workers of each image said of where they ran, each environment once."""
    found: dict[str, dict[str, Any]] = {}
    for name, stage in stages.items():
        said = stage.final.environment.model_dump(mode="json")
        found.setdefault(record.stages[name].image, {})[json.dumps(said, sort_keys=True)] = said
    return {image: [said[text] for text in sorted(said)] for image, said in sorted(found.items())}


def _add_artifacts(collected: _Collected, stages: Mapping[str, StageRecord], store: Store, wanted: Wanted) -> None:
    """Checkpoints and data sets where they are wanted, at hand, and may be given away."""
    left: Counter[str] = Counter()
    for stage in stages.values():
        digest, descriptor = stage.provenance.artifact, stage.artifact
        is_wanted = (wanted.checkpoints and isinstance(descriptor, CheckpointDescriptor)) or (
            wanted.data and isinstance(descriptor, DatasetDescriptor)
        )
        if digest is None or descriptor is None or not is_wanted:
            continue
        if isinstance(descriptor, DatasetDescriptor) and descriptor.name not in SHARED:
            left[f"the data set {descriptor.name}, of which no licence is known here that allows it"] += 1
            continue
        folder = store.artifacts.path(digest)
        if not store.artifacts.has(digest, descriptor):
            left[f"what {stage.provenance.stage} made, which is not in the store any more"] += 1
            continue
        name = f"{STORE_FOLDER}/artifacts/{digest}"
        collected.files[f"{name}/llmcbench.json"] = folder / "llmcbench.json"
        for file, entry in descriptor.files.items():
            collected.files[f"{name}/{file}"] = folder / file
            collected.known[f"{name}/{file}"] = entry.sha256
    collected.holds += ["checkpoints"] if wanted.checkpoints else []
    collected.holds += ["data sets"] if wanted.data else []
    collected.missing += list(left)
    if not wanted.checkpoints:
        collected.missing.append(f"{_CHECKPOINTS}--checkpoints packs them")


def _figures(files: Mapping[str, bytes | Path], run: str, scoring: Scoring) -> dict[str, bytes]:
    """Scores and verdicts of what is packed, which is what a reader can make them of."""
    with own_scratch() as folder:
        lay_out(files, folder)
        store = Store(folder / STORE_FOLDER)
        catalog = packed_catalog(folder)
        claims = {path.stem: read_claims(path) for path in sorted((folder / CLAIMS_FOLDER).glob("*.yaml"))}
        figures = make_figures(as_it_is(store, store.runs.read(run)).record, store, catalog, scoring, claims)
    made = {SCORES_NAME: figures.scores.model_dump_json(indent=1).encode()}
    return made | {
        f"{VERDICTS_FOLDER}/{name}.json": one.model_dump_json(indent=1).encode()
        for name, one in figures.verdicts.items()
    }


def lay_out(files: Mapping[str, bytes | Path], folder: Path) -> None:
    """Write files that are in memory below `folder`."""
    for name, content in files.items():
        if isinstance(content, bytes):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def packed_catalog(folder: Path) -> ImageCatalog:
    """The images of a laid out artifact.

    Raises:
        BadImage: this version of the program cannot read their descriptions.
    """
    try:
        return ImageCatalog(folder / IMAGES_FOLDER)
    except BadImage as bad:
        raise BadImage(
            f"the images that the run was made with cannot be read by this version: {bad.message}",
            hint="check out the commit of the run, and use that version's command",
        ) from bad


def _finish(
    collected: _Collected,
    record: RunRecord,
    source: SourceFiles,
    other: tuple[str, ...],
    withholding: Withholding,
    scoring: Scoring,
    results: int,
    output: Path,
) -> Contents:
    if other:
        named = ", ".join(other[:_NAMED]) + (f" and {len(other) - _NAMED} more" if len(other) > _NAMED else "")
        collected.missing.append(f"the source of {len(other)} results, which is not that of {source.origin}: {named}")
    if not can_describe():
        collected.missing.append(f"{_METADATA}rocrate is not installed; {INSTALL}")
    program = record.facts.version or "unknown"
    contents = Contents(
        run=record.run,
        program=program,
        packed_by=program_version() or "unknown",
        commit=record.facts.commit,
        harness_digest=record.facts.harness_digest,
        origin=source.origin,
        stages=len(record.stages),
        results=results,
        holds=(*collected.holds, "claims", "source", "images", "environment"),
        missing=tuple(collected.missing),
        withheld=dict(sorted(withholding.counts.items())),
        other_source=other,
        scoring=scoring,
    )
    collected.files[CONTENTS_NAME] = dumped(contents.model_dump(mode="json"))
    collected.files[README_NAME] = readme(contents, record).encode()
    if can_describe():
        collected.files[CRATE_NAME] = crate_metadata(record, contents)
    assert SUMS_NAME not in collected.files  # noqa: S101  `write` adds it
    write(output, record.run, collected.files, collected.known)
    return contents
