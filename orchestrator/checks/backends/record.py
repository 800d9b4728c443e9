"""What a self-test found, as one small JSON document a backend and kind of device: `<store>/verified/`."""

from enum import StrEnum
from pathlib import Path

from pydantic import ValidationError

from harness.contract import DeviceKind, Frozen
from orchestrator.errors import StoreError
from orchestrator.host.files import write_atomically

FOLDER_NAME = "verified"


class Outcome(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    NOT_APPLICABLE = "not-applicable"


class Check(Frozen):
    name: str
    outcome: Outcome
    message: str


class Verification(Frozen):
    """`identity` is the image as the runtime names it; `date` is in UTC. `libraries` are the versions inside."""

    backend: str
    image: str
    identity: str
    runtime: str
    device_kind: DeviceKind
    device_model: str
    driver: str | None = None
    harness_digest: str
    libraries: dict[str, str] = {}
    date: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.outcome is not Outcome.FAILED for check in self.checks)

    @property
    def summary(self) -> str:
        word = "verified" if self.passed else "FAILED the check"
        failed = [check.name for check in self.checks if check.outcome is Outcome.FAILED]
        what = f" ({', '.join(failed)})" if failed else ""
        return f"{word} here on {self.device_model} on {self.date[:10]}{what}"


def write_verification(root: Path, verification: Verification) -> Path:
    """Write the document below the store's folder `root`, in place of an earlier one; return its path."""
    path = _path(root, verification.backend, verification.device_kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, verification.model_dump_json(indent=1) + "\n")
    return path


def read_verification(root: Path, backend: str, device: DeviceKind) -> Verification | None:
    """The last outcome on this kind of device; None where the backend was never put to the test here.

    Raises:
        StoreError: the document is damaged.
    """
    path = _path(root, backend, device)
    if not path.is_file():
        return None
    try:
        return Verification.model_validate_json(path.read_bytes())
    except ValidationError as invalid:
        raise StoreError(
            f"{path} is damaged: {invalid.error_count()} problem(s)",
            hint=f"delete it, and run `orchestrator backends verify {backend}` again",
        ) from invalid


def read_verifications(root: Path, backend: str) -> tuple[Verification, ...]:
    found = (read_verification(root, backend, device) for device in DeviceKind)
    return tuple(one for one in found if one is not None)


def _path(root: Path, backend: str, device: DeviceKind) -> Path:
    return root / FOLDER_NAME / f"{backend}-{device.value}.json"
