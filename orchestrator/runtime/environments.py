"""Virtual environments of the process runtime: one a lock, made once, complete or not there at all.

Images with the same lock share one: it holds their packages alone, and workers import the harness from its source.
uv links the files from its cache, so several environments with the same torch cost the disk of one.
"""

import secrets
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.contract import DeviceKind, harness_digest, harness_folder
from orchestrator.errors import BadImage, RuntimeUnavailable
from orchestrator.host.locks import hold
from orchestrator.images.image import Image
from orchestrator.images.installing import LOOK_UP_HINT, install_lock
from orchestrator.images.locking import PYTHON_VERSION
from orchestrator.images.package_sources import PackageSources
from orchestrator.images.staging import copy_harness
from orchestrator.images.torch_source import choose_build, interpreter
from orchestrator.images.uv import UvFailed, run_uv
from orchestrator.installation import is_checkout

ENVIRONMENTS_NAME = "environments"
MARKER_NAME = "llmcbench-complete"
_NAME_DIGITS = 16


@dataclass(frozen=True)
class WorkerEnvironment:
    """`lock_sha256` says what is installed; `abi` for which Python, such as `cp311`."""

    folder: Path
    lock_sha256: str
    abi: str

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def bytecode(self) -> Path:
        """Where workers keep compiled modules: what is imported is compiled once, a fraction of what is there."""
        return self.folder / "bytecode"

    @property
    def is_complete(self) -> bool:
        return (self.folder / MARKER_NAME).is_file() and self.python.exists()


class Environments:
    """The environments below one folder. Two orchestrators may share it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._said: set[str] = set()

    def find(self, image: Image, device: DeviceKind) -> WorkerEnvironment | None:
        """The environment that is there already, of the image or of what stands in for it."""
        there = (self._environment(one, device) for one in image.builds(device))
        return next((one for one in there if one.is_complete), None)

    def prepare(self, image: Image, device: DeviceKind, note: Callable[[str], None]) -> WorkerEnvironment:
        """Make the environment of an image's lock, or of what stands in for it; instant when it is there.

        Raises:
            BadImage: a lock is missing, or its packages cannot be installed.
            RuntimeUnavailable: uv is not installed, or the image is no environment of a lock.
        """
        if image.container_only is not None:
            raise RuntimeUnavailable(
                f"image {image.name!r} runs as a container alone: {image.container_only}", hint="use --runtime docker"
            )
        if found := self.find(image, device):
            return found
        self._folder.mkdir(parents=True, exist_ok=True)
        with hold(self._folder / f".{image.lock_digest(device)[:_NAME_DIGITS]}.lock"):
            if found := self.find(image, device):
                return found
            begin = time.monotonic()
            sources = PackageSources.configured()
            chosen, torch = choose_build(image, device, sources, interpreter(sys.executable))
            if torch.note and torch.note not in self._said:
                self._said.add(torch.note)
                note(torch.note)
            note(f"installing the environment of image {image.name!r} for {device.value}")
            try:
                made = self._install(chosen, device, sources, note)
            except UvFailed as failure:
                raise _explain(image, device, failure) from failure
            note(f"environment of image {image.name!r} is ready after {time.monotonic() - begin:.0f} s")
            return made

    def harness(self) -> Path:
        """The folder that workers import the harness from.

        Installed from a wheel, the harness lies among the orchestrator's own packages, which must not hide those of the
        environment: workers then get a copy that lies alone.
        """
        if is_checkout():
            return harness_folder().parent
        target = self._folder / _harness_name()
        self._folder.mkdir(parents=True, exist_ok=True)
        with hold(self._folder / ".harness.lock"):
            if not target.is_dir():
                folder = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
                try:
                    copy_harness(folder / harness_folder().name)
                    folder.rename(target)
                finally:
                    shutil.rmtree(folder, ignore_errors=True)
        return target.absolute()

    def unused(self, images: Iterable[Image]) -> tuple[Path, ...]:
        """What is below the folder and of no lock of `images`: environments, an older harness, what a kill left."""
        locked = ((image, kind) for image in images for kind in DeviceKind if image.lock(kind).is_file())
        digests = {one.lock_digest(kind) for image, kind in locked for one in image.builds(kind)}
        wanted = {digest[:_NAME_DIGITS] for digest in digests}
        found = sorted(self._folder.iterdir()) if self._folder.is_dir() else []
        return tuple(path for path in found if not _is_wanted(path.name, wanted))

    def _install(
        self, image: Image, device: DeviceKind, sources: PackageSources, note: Callable[[str], None]
    ) -> WorkerEnvironment:
        """Build under a temporary name and rename: a folder with the final name is complete."""
        target = self._environment(image, device)
        folder = target.folder.with_name(f".{target.folder.name}.{secrets.token_hex(4)}.tmp")
        try:
            run_uv(["venv", "--no-config", "--relocatable", "--python", sys.executable, str(folder)], sources)
            for layer in image.layers:  # what builds packages from source comes first
                if "==" in (lock := layer.lock_text(device)):
                    install_lock(lock, folder / "bin" / "python", sources, note)
            (folder / MARKER_NAME).write_text(target.lock_sha256 + "\n", encoding="ascii")
            if target.folder.exists():  # left incomplete, or its interpreter is gone
                shutil.rmtree(target.folder)
            folder.rename(target.folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return target

    def _environment(self, image: Image, device: DeviceKind) -> WorkerEnvironment:
        digest = image.lock_digest(device)
        abi = f"cp{sys.version_info.major}{sys.version_info.minor}"
        return WorkerEnvironment(self._folder / f"{digest[:_NAME_DIGITS]}-{abi}", digest, abi)


def _harness_name() -> str:
    return f"harness-{harness_digest()[:12]}"


def _is_wanted(name: str, wanted: Collection[str]) -> bool:
    if name in (_harness_name(), ".harness.lock"):
        return True
    digest, _, rest = name.removeprefix(".").partition("-" if not name.startswith(".") else ".")
    return digest in wanted and not rest.endswith("tmp")


def _explain(image: Image, device: DeviceKind, failure: UvFailed) -> BadImage:
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    hint = LOOK_UP_HINT
    if running != PYTHON_VERSION:
        hint = f"the locks are made for Python {PYTHON_VERSION}, and this is {running}: run with {PYTHON_VERSION}"
    return BadImage(
        f"the environment of image {image.name!r} for {device.value} cannot be installed: {failure}", hint=hint
    )
