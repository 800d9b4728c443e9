"""What verifying and reproducing an artifact found, as lines for a terminal."""

from collections.abc import Iterator

from harness.contract.text import escaped, one_line
from orchestrator.artifact.reproduction import Reproduction, Verdict, Why
from orchestrator.artifact.verification import Verification

_NAMED = 3
"""Of many that were not run for the same reason."""


def reproduction_lines(found: Reproduction) -> Iterator[str]:
    """Each thing that was judged, and of those that were not the reasons."""
    for name, run in (("packed", found.packed), ("here", found.here)):
        commit = f", commit {run.commit}" if run.commit else ""
        yield f"{name:7} {run.device}, {run.runtime} runtime, version {run.version or 'unknown'}{commit}"
    for reason, count in found.others.items():
        yield f"{'':7} {count} results are {reason}: where their bytes differ, their values are compared"
    for one in (*found.of(Verdict.PASS), *found.of(Verdict.FAIL)):
        yield f"{one.verdict.value:7} {escaped(one.what)}: {one.kind.value}: {one_line(one.says)}"
    alike: dict[tuple[str, str], list[str]] = {}
    for one in found.of(Verdict.NOT_RUN):
        alike.setdefault((one.why.value if one.why else "", one.says), []).append(one.what)
    for (why, says), names in alike.items():
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        reason = f"{why}: {one_line(says)}" if says else why
        yield f"{Verdict.NOT_RUN.value:7} {escaped(', '.join(names[:_NAMED]))}{more}: {reason}"
    if left := sum(one.why is Why.TIME for one in found.judgements):
        yield f"the time was up before {left} of the stages that were to be run; the same command goes on with them"
    counts = ", ".join(f"{len(found.of(one))} {one.value}" for one in Verdict)
    verdict = "what was run came out again" if found.holds else "it did not come out again"
    yield f"{escaped(found.file)}: {verdict}: {counts} ({found.seconds:.0f} s)"


def verification_lines(found: Verification) -> Iterator[str]:
    """A row a check, what failed, and what is only stated."""
    for check in found.checks:
        about = (f" ({check.count})" if check.count else "") + (f": {check.reason}" if check.reason else "")
        yield f"{check.outcome.value:12} {check.level.value:14} {check.name}{about}"
        for finding in check.findings:
            yield f"{'':12} {escaped(finding.what)}: {one_line(finding.reason)}"
    guard = (
        f"guarded by the signature of {', '.join(found.signers)}" if found.is_sealed else "guarded by checksums alone"
    )
    yield f"stated in it, and {guard}:"
    for statement in found.stated:
        yield f"  - {statement.says}"
    verdict = "all that can be checked holds" if found.holds else "it does not hold"
    yield f"{escaped(found.file)}: {verdict} ({found.size_bytes / 1e6:.1f} MB, {found.seconds:.1f} s)"
