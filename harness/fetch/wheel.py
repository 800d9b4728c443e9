"""Python packages as carriers of models and data: a wheel of known sha256, read and never installed.

One that an earlier fetch brought is handed to this one as an input. Else pip brings it, as it is configured (index,
mirrors, certificates, local folders) and with `--require-hashes`, and it is left in the output for the next.
"""

import subprocess
import sys
from pathlib import Path

from harness.contract import LogLevel, Wheel, digest_file
from harness.errors import MissingData
from harness.fetch.workspace import Workspace
from harness.reporter import Reporter


def obtain_wheel(wheel: Wheel, workspace: Workspace, reporter: Reporter) -> Path:
    """The wheel, under a name that says what it is.

    Raises:
        MissingData: this environment has no pip, or pip cannot bring a file with the pinned sha256.
    """
    named = workspace.scratch / f"{wheel.package}-{wheel.version}.whl"
    if not named.exists():
        found = _handed(wheel, workspace, reporter)
        if found is None:
            found = workspace.wheels / wheel.sha256
            workspace.wheels.mkdir(exist_ok=True)
            _download(wheel, workspace.scratch, reporter).rename(found)
        named.symlink_to(found.absolute())
    return named


def _handed(wheel: Wheel, workspace: Workspace, reporter: Reporter) -> Path | None:
    """The wheel as an earlier fetch brought it."""
    handed = workspace.inputs.get(wheel.input_name)
    if handed is None:
        return None
    if digest_file(handed) != wheel.sha256:
        reporter.log(f"what is here as {wheel.requirement} has another sha256, and is not used", LogLevel.WARNING)
        return None
    reporter.log(f"{wheel.requirement} is here from an earlier fetch")
    return handed


def _download(wheel: Wheel, scratch: Path, reporter: Reporter) -> Path:
    """Let pip bring the wheel into `scratch`."""
    requirements = scratch / f"{wheel.package}.txt"
    requirements.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
    folder = scratch / "wheels" / wheel.requirement
    options = ("--no-deps", "--only-binary", ":all:", "--require-hashes", "--retries", "1")
    quiet = ("--no-input", "--progress-bar", "off", "--disable-pip-version-check")
    reporter.log(f"pip downloads {wheel.requirement}")
    command = [sys.executable, "-m", "pip", "download", *options, *quiet, "-r", str(requirements), "-d", str(folder)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  our own words only
    print(finished.stdout, finished.stderr, sep="", file=sys.stderr)  # noqa: T201  the stage's stderr log
    if finished.returncode != 0:
        raise _explain(wheel, finished.stderr)
    return next(folder.glob("*.whl"))


def _explain(wheel: Wheel, stderr: str) -> MissingData:
    if "No module named pip" in stderr:
        return MissingData(
            f"{wheel.requirement} cannot be fetched: this environment has no pip", hint="install pip in the fetch image"
        )
    if "DO NOT MATCH THE HASHES" in stderr:
        return MissingData(
            f"the {wheel.requirement} that pip found does not have the sha256 {wheel.sha256}",
            hint="check the index or mirror that pip is set up to use",
        )
    errors = [line.removeprefix("ERROR:").strip() for line in stderr.splitlines() if line.startswith("ERROR:")]
    return MissingData(
        f"pip cannot bring {wheel.requirement}: {errors[0] if errors else 'see the stage log'}",
        hint="check the network and pip's index settings (PIP_INDEX_URL, PIP_FIND_LINKS, HTTPS_PROXY)",
    )
