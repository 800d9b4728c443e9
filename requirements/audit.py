"""`make audit`: asks a vulnerability service about every package of every lock, by pip-audit, and judges what it says.

pip-audit passes over a package that the service does not know, and ends well; here that is no good end. Each
vulnerability is to be mended, or to stand in `audit-allowed.toml` with a reason and a day. Exit status: 0 nothing is
open, 1 something is, 2 nothing could be asked for.
"""

import argparse
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import Field, ValidationError

from harness.contract import Frozen
from orchestrator.images.image import distribution_name
from orchestrator.images.package_sources import PackageSources
from orchestrator.images.sbom import pins

ROOT = Path(__file__).parents[1]
ALLOWED = Path(__file__).with_name("audit-allowed.toml")
UNKNOWN = "unknown"
_LOCAL = re.compile(r"\+.*")
"""Of a version: a build of the same source, which services list under the version alone."""


class Allowed(Frozen):
    """One entry of the allow list; it holds up to and on the day `until`."""

    id: str = Field(min_length=1)
    package: str = Field(min_length=1)
    reason: str = Field(min_length=10)
    until: date


class _AllowList(Frozen):
    allowed: tuple[Allowed, ...] = ()


class Vulnerability(Frozen):
    """As pip-audit says it."""

    id: str
    aliases: tuple[str, ...] = ()
    fix_versions: tuple[str, ...] = ()
    description: str = ""


class Audited(Frozen):
    """A package as pip-audit says it: with what is known of it, or why nothing is."""

    name: str
    version: str | None = None
    vulns: tuple[Vulnerability, ...] = ()
    skip_reason: str | None = None


class _Said(Frozen):
    dependencies: tuple[Audited, ...]


class CannotAudit(Exception):
    """Something was not asked for, so that nothing can be said of it."""


Locked = dict[tuple[str, str], list[str]]
"""The locks that have a package, by its name and version."""


def all_locks() -> list[Path]:
    """Every lock of the project."""
    return sorted([*ROOT.glob("requirements/*.txt"), *ROOT.glob("images/*/locks/*.txt")])


def read_locks(paths: Iterable[Path]) -> Locked:
    """Every package that the locks pin."""
    found: Locked = {}
    for path in paths:
        shown = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)
        for pin in pins(path.read_text(encoding="utf-8")):
            found.setdefault((distribution_name(pin.name), _LOCAL.sub("", pin.version)), []).append(shown)
    return found


def ask(locked: Locked, command: Sequence[str]) -> dict[tuple[str, str], Audited]:
    """What the service says of each. pip-audit takes one version of a package at a time.

    Raises:
        CannotAudit: it does not answer.
    """
    said: dict[tuple[str, str], Audited] = {}
    waiting = sorted(locked)
    while waiting:
        once = {name: (name, version) for name, version in reversed(waiting)}
        for one in _ask_once(once.values(), command):
            if (found := once.get(distribution_name(one.name))) is not None:
                said[found] = one
        waiting = [one for one in waiting if one not in once.values()]
    return said


def _ask_once(packages: Iterable[tuple[str, str]], command: Sequence[str]) -> tuple[Audited, ...]:
    certificate = PackageSources.configured().certificate
    environment = {**({"REQUESTS_CA_BUNDLE": str(certificate)} if certificate else {}), **os.environ}
    with TemporaryDirectory() as folder:
        path = Path(folder, "pins.txt")
        path.write_text("".join(f"{name}=={version}\n" for name, version in packages), encoding="utf-8")
        arguments = [*command, "--disable-pip", "--no-deps", "--progress-spinner", "off", "--format", "json"]
        try:
            done = subprocess.run(  # noqa: S603  pip-audit of this environment
                [*arguments, "--requirement", str(path)], env=environment, capture_output=True, text=True, check=False
            )
        except OSError as missing:
            raise CannotAudit(f"{command[0]} cannot be run: {missing.strerror}") from missing
    try:
        return _Said.model_validate_json(done.stdout, extra="ignore").dependencies
    except ValidationError:
        last = (done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}").splitlines()[-1]
        raise CannotAudit(f"pip-audit has no answer: {last}") from None


def read_allowed(path: Path) -> tuple[Allowed, ...]:
    """The allow list.

    Raises:
        CannotAudit: the file is not valid.
    """
    try:
        return _AllowList.model_validate(tomllib.loads(path.read_text(encoding="utf-8"))).allowed
    except ValidationError as invalid:
        faults = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in invalid.errors())
        raise CannotAudit(f"{path.name} is not valid: {'; '.join(faults)}") from invalid
    except (OSError, ValueError) as invalid:
        raise CannotAudit(f"{path.name} is not valid: {invalid}") from invalid


def judge(
    locked: Locked, said: dict[tuple[str, str], Audited], allowed: Sequence[Allowed], today: date
) -> Iterator[tuple[bool, str]]:
    """Whether each thing that was found is allowed, in a sentence."""
    used = set()
    for package, locks in sorted(locked.items()):
        for names, what in _found(package, said.get(package)):
            entry = next(
                (one for one in allowed if one.id in names and distribution_name(one.package) == package[0]), None
            )
            used.add(entry)
            where = f"{package[0]} {package[1]} ({', '.join(locks)}): {what}"
            if entry is None:
                yield False, where
            elif entry.until < today:
                yield False, f"{where}; allowed until {entry.until}, which is over: {entry.reason}"
            else:
                yield True, f"{where}; allowed until {entry.until}: {entry.reason}"
    for entry in allowed:
        if entry not in used:
            yield False, f"{entry.package}: {entry.id} is allowed and was not found: take it out of {ALLOWED.name}"


def _found(package: tuple[str, str], said: Audited | None) -> Iterator[tuple[set[str], str]]:
    """The names and a description of each thing that speaks against a package."""
    if said is None or said.skip_reason is not None:
        yield {UNKNOWN}, "the service does not know it" if said is None else str(said.skip_reason)
        return
    for one in said.vulns:
        names = ", ".join((one.id, *one.aliases))
        mended = f"mended in {', '.join(one.fix_versions)}" if one.fix_versions else "mended in no version"
        yield {one.id, *one.aliases}, f"{names}, {mended}: {' '.join(one.description.split())[:200]}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Audit every lock for known vulnerabilities.")
    parser.add_argument("locks", nargs="*", type=Path, help="all of the project if left out")
    parser.add_argument("--service", default="pypi", choices=["pypi", "osv"])
    parser.add_argument("--osv-url", help="of another service that speaks OSV's protocol")
    parser.add_argument("--pip-audit", default=str(Path(sys.executable).with_name("pip-audit")))
    parser.add_argument("--allowed", type=Path, default=ALLOWED)
    asked = parser.parse_args(arguments)
    command = [asked.pip_audit, "--vulnerability-service", "osv" if asked.osv_url else asked.service]
    command += ["--osv-url", asked.osv_url] if asked.osv_url else []
    locked = read_locks([path.resolve() for path in asked.locks] or all_locks())
    try:
        allowed = read_allowed(asked.allowed)
        said = ask(locked, command)
    except CannotAudit as problem:
        print(f"not audited: {problem}", file=sys.stderr)
        return 2
    unknown = sum(package not in said or said[package].skip_reason is not None for package in locked)
    if unknown == len(locked):
        print("not audited: the service knows none of the packages; see --service and --osv-url", file=sys.stderr)
        return 2
    judged = list(judge(locked, said, allowed, datetime.now(UTC).date()))
    for is_allowed, sentence in judged:
        print(f"{'allowed' if is_allowed else 'OPEN'}: {sentence}")
    locks = {one for where in locked.values() for one in where}
    print(f"{len(locked)} packages of {len(locks)} locks, of which the service does not know {unknown}")
    return int(not all(is_allowed for is_allowed, _ in judged))


if __name__ == "__main__":
    sys.exit(main())
