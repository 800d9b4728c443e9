"""`artifact verify`: offline, all that follows from what is packed, through the code that a run itself goes through."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from harness.contract import DESCRIPTOR_NAME, Sha256, digest_file, read_regular
from orchestrator.artifact.belonging import (
    Packed,
    false_inputs,
    false_keys,
    false_locks,
    false_requests,
    false_source,
    lay_out_descriptors,
    require_form,
)
from orchestrator.artifact.comparing import differences
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
)
from orchestrator.artifact.figures import make_figures
from orchestrator.artifact.packing import environments, packed_catalog
from orchestrator.artifact.signing import BadSignature, check_signature, signature_of
from orchestrator.artifact.unpacked import ARTIFACTS_FOLDER, Unpacked, unpacked
from orchestrator.artifact.verification import STATEMENTS, Check, Finding, Level, Outcome, Verification
from orchestrator.errors import OrchestratorError
from orchestrator.run.facts import program_version
from orchestrator.score.claims_file import read_claims
from orchestrator.store import Store
from orchestrator.store.history import as_it_is
from orchestrator.store.runs import MOST_RECORD_BYTES
from orchestrator.store.versioned import Unreadable, parse, read

_MOST_FINDINGS = 20
"""Of one check that are kept; the first says as much as the hundredth."""
_TOP = {README_NAME, CONTENTS_NAME, MANIFEST_NAME, ENVIRONMENT_NAME, SCORES_NAME, CRATE_NAME}
_FOLDERS = (STORE_FOLDER, IMAGES_FOLDER, SOURCE_FOLDER, CLAIMS_FOLDER, VERDICTS_FOLDER)
_NO_RECORDS = "the records cannot be read"


def verify(file: Path, signers: Path | None = None, signature: Path | None = None) -> Verification:
    """Look at everything in the file that can be looked at; nothing is written but a folder that is removed again.

    Raises:
        NoArtifact: there is no file.
        CannotSign: signers are given, and ssh-keygen is not here.
    """
    begin = time.monotonic()
    with unpacked(file) as content:
        signed, by = _signature(file, signers, signature or signature_of(file))
        checks, run = _checks(content)
        present = [one for one in STATEMENTS if any(map(one.is_in, content.digests))]
    return Verification(
        file=file.name,
        sha256=digest_file(file),
        size_bytes=content.size_bytes,
        run=run,
        seconds=time.monotonic() - begin,
        checks=(*checks, signed),
        stated=tuple(present),
        signers=by,
    )


def _check(name: str, level: Level, findings: Iterator[Finding], count: int, reason: str = "") -> Check:
    found = tuple(finding for finding, _ in zip(findings, range(_MOST_FINDINGS), strict=False))
    outcome = Outcome.FAILS if found else Outcome.HOLDS
    return Check(name=name, level=level, outcome=outcome, count=count, findings=found, reason=reason)


def _not_checked(name: str, level: Level, reason: str) -> Check:
    return Check(name=name, level=level, outcome=Outcome.NOT_CHECKED, reason=reason)


def _signature(file: Path, signers: Path | None, signature: Path) -> tuple[Check, tuple[str, ...]]:
    name = "signature of the whole file"
    if signers is None:
        beside = (
            f": {signature.name} lies beside it, and --signers names whom to believe" if signature.is_file() else ""
        )
        return _not_checked(name, Level.SIGNATURE, f"no signers were given{beside}"), ()
    try:
        by = check_signature(file, signature, signers)
    except BadSignature as bad:
        return _check(name, Level.SIGNATURE, iter([Finding(what=signature.name, reason=str(bad))]), 1), ()
    return _check(name, Level.SIGNATURE, iter(()), len(by), f"by {', '.join(by)}"), by


def _checks(content: Unpacked) -> tuple[tuple[Check, ...], str | None]:
    """All checks but the signature's, and the run's name. Records are read only of a file that is what was packed."""
    broken = [Finding(what="the file", reason=content.broken)] if content.broken else []
    first = (
        _check("one archive in its only form", Level.FORM, iter(broken), len(content.digests)),
        _check("every checksum", Level.CHECKSUMS, _false_sums(content), len(content.stated)),
        _check("no file without a place", Level.FORM, _strange_files(content), len(content.digests)),
    )
    names = ("record, results and outcomes", "each stage under its own key", "requests", "inputs", "source", "locks")
    later = (*names, "scores", "claims", "manifest and environment", "weights and data")
    if any(one.outcome is Outcome.FAILS for one in first):
        why = "the file is not what was packed"
        return (*first, *(_not_checked(name, Level.RECOMPUTATION, why) for name in later)), None
    try:
        packed, unreadable = open_packed(content)
    except OrchestratorError as failure:
        found = Finding(what=CONTENTS_NAME, reason=f"{_NO_RECORDS}: {failure.message}")
        rest = (_not_checked(name, Level.RECOMPUTATION, _NO_RECORDS) for name in later[1:])
        return (*first, _check(names[0], Level.RECOMPUTATION, iter([found]), 0), *rest), None
    return (*first, *_recomputed(content, packed, unreadable)), packed.record.run


def _false_sums(content: Unpacked) -> Iterator[Finding]:
    for name in sorted(content.digests.keys() | content.stated.keys()):
        if name not in content.stated:
            yield Finding(what=name, reason="it has no checksum")
        elif name not in content.digests:
            yield Finding(what=name, reason="it is missing")
        elif content.digests[name] != content.stated[name]:
            yield Finding(what=name, reason="it has another sha256 than when it was packed")


def _strange_files(content: Unpacked) -> Iterator[Finding]:
    for name in content.digests:
        if name not in _TOP and name.partition("/")[0] not in _FOLDERS:
            yield Finding(what=name, reason="no artifact has such a file")


def open_packed(content: Unpacked) -> tuple[Packed, tuple[Unreadable, ...]]:
    """What is packed, through the store's own reading.

    Raises:
        OrchestratorError: the record, or what the artifact says of itself, cannot be read.
    """
    document = _document(content, CONTENTS_NAME)
    contents = read(CONTENTS_NAME, lambda: Contents.model_validate(document, extra="ignore"))
    store = Store(content.folder / STORE_FOLDER)
    record = store.runs.read(contents.run)
    for key in {state.key for state in record.stages.values() if state.key is not None and state.has_result}:
        stage = None
        with suppress(Unreadable):  # it is passed over, and named, below
            stage = store.read(key)
        if stage is not None:
            require_form(stage)
    opened = as_it_is(store, record)
    stages = {
        name: stage
        for name, state in opened.record.stages.items()
        if state.key is not None and state.has_result and (stage := store.read(state.key)) is not None
    }
    lay_out_descriptors(store, stages)
    source = {
        name.removeprefix(f"{SOURCE_FOLDER}/"): digest
        for name, digest in content.digests.items()
        if name.startswith(f"{SOURCE_FOLDER}/")
    }
    unreadable = (*opened.unreadable, *store.imported.unreadable(contents.run))
    return Packed(contents, opened.record, store, stages, packed_catalog(content.folder), source), unreadable


def _document(content: Unpacked, name: str) -> dict[str, object]:
    return read(name, lambda: parse(read_regular(content.folder / name, MOST_RECORD_BYTES)))


def _recomputed(content: Unpacked, packed: Packed, unreadable: tuple[Unreadable, ...]) -> Iterator[Check]:
    level, count = Level.RECOMPUTATION, len(packed.stages)

    def of_stages(name: str, find: Callable[[Packed], Iterator[Finding]], reason: str = "") -> Check:
        return _check(name, level, find(packed), count, reason)

    yield _check("record, results and outcomes", level, _false_results(content, packed, unreadable), count)
    yield of_stages("each stage under its own key", false_keys)
    requests = sum(
        content.has(f"{STORE_FOLDER}/stages/{one.provenance.key}/request.json") for one in packed.stages.values()
    )
    yield of_stages("requests", false_requests, "" if requests == count else f"{count - requests} are not packed")
    yield of_stages("inputs", false_inputs)
    others = len(packed.contents.other_source)
    yield of_stages("source", false_source, f"that of {others} results is said not to be packed" if others else "")
    locks = [identity for identity in packed.record.facts.images.values() if identity.startswith("process:")]
    if locks and not others:
        yield _check("locks", level, false_locks(packed), len(locks))
    else:
        reason = "the source is of another commit" if locks else "the runtime's identities have more in them than locks"
        yield _not_checked("locks", level, reason)
    yield from _figures(content, packed)
    yield _check("manifest and environment", level, _false_documents(content, packed), 2)
    weights = [name for name in content.digests if name.startswith(ARTIFACTS_FOLDER)]
    if weights:
        yield _check("weights and data", level, _false_artifacts(content, packed), len(weights))
    else:
        yield _not_checked("weights and data", level, "none are packed")


def _false_results(content: Unpacked, packed: Packed, unreadable: tuple[Unreadable, ...]) -> Iterator[Finding]:
    """What the store passes over, stages that nothing names, and counts that the artifact states otherwise."""
    yield from (Finding(what=one.what, reason=one.reason) for one in unreadable)
    keys = {stage.provenance.key for stage in packed.stages.values()}
    record = f"{STORE_FOLDER}/runs/{packed.record.run}/"
    for name in content.digests:
        parts = name.split("/")
        if parts[:2] == [STORE_FOLDER, "stages"] and (len(parts) < 4 or parts[2] not in keys):
            yield Finding(what=name, reason="the run's record names no such result")
        elif parts[:2] == [STORE_FOLDER, "runs"] and not name.startswith(record):
            yield Finding(what=name, reason="it is of another run")
        elif parts[0] == STORE_FOLDER and parts[1] not in ("runs", "stages", "artifacts"):
            yield Finding(what=name, reason="no artifact has such a file")
    if (packed.contents.stages, packed.contents.results) != (len(packed.record.stages), len(packed.stages)):
        said = f"{packed.contents.results} results of {packed.contents.stages} stages"
        yield Finding(what=CONTENTS_NAME, reason=f"{said} are said to be packed, and {len(packed.stages)} are")


def _figures(content: Unpacked, packed: Packed) -> Iterator[Check]:
    """Scores and verdicts, made again of what is packed."""
    level = Level.RECOMPUTATION
    made_by, here = packed.contents.packed_by, program_version() or "unknown"
    versions = f"made by version {made_by}, held against {here}" if made_by != here else ""
    try:
        folder = content.folder / CLAIMS_FOLDER
        claims = {path.stem: read_claims(path) for path in sorted(folder.glob("*.yaml"))}
        figures = make_figures(packed.record, packed.store, packed.catalog, packed.contents.scoring, claims)
    except OrchestratorError as failure:
        found = [Finding(what=SCORES_NAME, reason=f"nothing follows: {failure.message}")]
        yield _check("scores", level, iter(found), 0)
        yield _not_checked("claims", level, "there are no scores")
        return
    scores = json.loads(figures.scores.model_dump_json())
    yield _check("scores", level, _unlike(content, {SCORES_NAME: scores}), len(figures.scores.values), versions)
    verdicts = {
        f"{VERDICTS_FOLDER}/{name}.json": json.loads(one.model_dump_json()) for name, one in figures.verdicts.items()
    }
    stray = {name for name in content.digests if name.startswith(f"{VERDICTS_FOLDER}/")} - verdicts.keys()
    unlike = (*_unlike(content, verdicts), *(Finding(what=name, reason="nobody claims that") for name in sorted(stray)))
    judged = sum(len(one.findings) for one in figures.verdicts.values())
    yield _check("claims", level, iter(unlike), judged, versions)


def _unlike(content: Unpacked, found: Mapping[str, object]) -> Iterator[Finding]:
    for name, document in found.items():
        try:
            packed = _document(content, name)
        except Unreadable as unreadable:
            yield Finding(what=name, reason=unreadable.reason)
            continue
        yield from (Finding(what=name, reason=reason) for reason in differences(packed, document))


def _false_documents(content: Unpacked, packed: Packed) -> Iterator[Finding]:
    found = {
        MANIFEST_NAME: json.loads(json.dumps(packed.record.manifest_document)),
        ENVIRONMENT_NAME: environments(packed.record, packed.stages),
    }
    yield from _unlike(content, found)
    facts = packed.record.facts
    for name, said, recorded in (
        ("commit", packed.contents.commit, facts.commit),
        ("harness_digest", packed.contents.harness_digest, facts.harness_digest),
    ):
        if said != recorded:
            yield Finding(what=CONTENTS_NAME, reason=f"its {name} is not that of the run's record")


def _false_artifacts(content: Unpacked, packed: Packed) -> Iterator[Finding]:
    """Weights and data that are not as the result that came with them describes them."""
    made = {stage.provenance.artifact: stage.artifact for stage in packed.stages.values()}
    found: dict[str, dict[str, Sha256]] = {}
    for name, digest in content.digests.items():
        if name.startswith(ARTIFACTS_FOLDER):
            artifact, _, file = name.removeprefix(ARTIFACTS_FOLDER).partition("/")
            found.setdefault(artifact, {})[file] = digest
    for artifact, files in found.items():
        descriptor = made.get(artifact)
        if descriptor is None:
            yield Finding(what=f"{ARTIFACTS_FOLDER}{artifact}", reason="no result of the run came with it")
            continue
        wanted = {name: entry.sha256 for name, entry in descriptor.files.items()}
        files = {name: digest for name, digest in files.items() if name != DESCRIPTOR_NAME}
        for name in sorted(wanted.keys() | files.keys()):
            if wanted.get(name) != files.get(name):
                yield Finding(
                    what=f"{ARTIFACTS_FOLDER}{artifact}/{name}", reason="it is not as its result describes it"
                )
