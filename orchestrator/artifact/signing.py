"""Detached signatures of an artifact, by the `ssh-keygen -Y` that comes with OpenSSH."""

import shutil
import subprocess
from pathlib import Path

from orchestrator.errors import OrchestratorError

NAMESPACE = "llmcbench-artifact"
SUFFIX = ".sig"
_SECONDS = 120.0


class CannotSign(OrchestratorError):
    """A file cannot be signed, or its signature cannot be looked at."""


class BadSignature(Exception):
    """There is no good signature by anybody who is allowed; the message is a clause."""


def signature_of(file: Path) -> Path:
    return file.with_name(f"{file.name}{SUFFIX}")


def sign(file: Path, key: Path) -> Path:
    """Write the signature beside the file, in place of what was there; `key` is a private key of ssh's.

    Raises:
        CannotSign: ssh-keygen is not here, or the key cannot be used.
    """
    signature_of(file).unlink(missing_ok=True)
    done = _keygen("sign", "-f", str(key), "-n", NAMESPACE, str(file))
    if done.returncode:
        raise CannotSign(f"{file} cannot be signed: {_last(done.stderr)}", hint="name a private key of ssh with --sign")
    return signature_of(file)


def check_signature(file: Path, signature: Path, signers: Path) -> tuple[str, ...]:
    """The principals of `signers`, a file of allowed signers (`man ssh-keygen`), who signed exactly this file.

    Raises:
        BadSignature: there is no signature, it is of another file, or by nobody who is allowed.
        CannotSign: ssh-keygen is not here, or there is no file of signers.
    """
    if not signers.is_file():
        raise CannotSign(
            f"there is no file of signers at {signers}", hint="lines of: NAME namespaces=… KEY; see man ssh-keygen"
        )
    if not signature.is_file():
        raise BadSignature(f"there is no signature {signature.name} beside it")
    found = _keygen("find-principals", "-s", str(signature), "-f", str(signers))
    names = tuple(line for line in found.stdout.decode(errors="replace").splitlines() if line)
    if found.returncode or not names:
        raise BadSignature("the signature is by nobody who is among the signers")
    good = tuple(name for name in names if _is_by(name, file, signature, signers))
    if not good:
        raise BadSignature("the signature is not of this file")
    return good


def _is_by(name: str, file: Path, signature: Path, signers: Path) -> bool:
    command = ("verify", "-f", str(signers), "-I", name, "-n", NAMESPACE, "-s", str(signature))
    return _keygen(*command, given=file).returncode == 0


def _keygen(*command: str, given: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    program = shutil.which("ssh-keygen")
    if program is None:
        raise CannotSign("ssh-keygen is not installed", hint="install OpenSSH's client, or leave signatures out")
    try:
        if given is None:
            return subprocess.run(  # noqa: S603
                [program, "-Y", *command], capture_output=True, stdin=subprocess.DEVNULL, timeout=_SECONDS, check=False
            )
        with given.open("rb") as content:
            return subprocess.run(  # noqa: S603
                [program, "-Y", *command], capture_output=True, stdin=content, timeout=_SECONDS, check=False
            )
    except subprocess.TimeoutExpired as late:
        raise CannotSign("ssh-keygen does not come to an end", hint="does the key ask for a passphrase?") from late


def _last(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "ssh-keygen does not say why"
