"""What decides what is in an image, as digests: its identity in results, and the tags under which it is built.

An image is an environment (a parent's, its lock, its Dockerfile and every file that a Dockerfile may copy) and, on top
of it, the worker: the harness and `image.toml`. A Dockerfile that does not end with its stage `environment` brings a
worker of its own and is built as it is.
"""

import re
from pathlib import Path

from harness.contract import DeviceKind, Sha256, digest_file, digest_of, harness_digest
from orchestrator.images.image import DESCRIPTION_NAME, LOCKS_NAME, Image
from orchestrator.stages import ImageIdentity

BASE_NAME = "base"
BASE_FILES = ("Dockerfile", "install-lock", "bootstrap.sh")
ENVIRONMENT_STAGE = "environment"
_TAG_DIGITS = 12
_STAGE = re.compile(r"^[ \t]*FROM[ \t]+(?:--\S+[ \t]+)*\S+(?:[ \t]+AS[ \t]+(\S+))?[ \t]*$", re.M | re.I)
_COPIES_HARNESS = re.compile(r"^[ \t]*(?:COPY|ADD)[ \t].*\bharness\b", re.M | re.I)
_LEFT_OUT = (
    "*.md",
    "*.pyc",
    "Dockerfile",
    "support.toml",
    "requirements*.in",
    "constraints*.txt",
    "overrides*.txt",
)
"""What lies in an image's folder for others than its build: documents, and what its locks were made from."""


def base_digest(images: Path) -> Sha256:
    """Digest of everything in the project that decides what is in the base image."""
    return digest_of({name: digest_file(images / BASE_NAME / name) for name in BASE_FILES})


def base_tag(images: Path) -> str:
    return f"llmcbench/{BASE_NAME}:{base_digest(images)[:_TAG_DIGITS]}"


def environment_dockerfile(image: Image) -> Path:
    """The image's own Dockerfile, or the one for those that have none."""
    return image.dockerfile if image.dockerfile.is_file() else image.project / BASE_NAME / "environment.Dockerfile"


def worker_dockerfile(image: Image) -> Path:
    """What puts the worker on top of an environment."""
    return image.project / BASE_NAME / "worker.Dockerfile"


def stages(image: Image) -> list[str]:
    """The names of the stages of its Dockerfile; empty for one without a name."""
    text = environment_dockerfile(image).read_text(encoding="utf-8")
    return [(found[1] or "").lower() for found in _STAGE.finditer(text)]


def brings_own_worker(image: Image) -> bool:
    """True where the image's Dockerfile is all of it."""
    return image.dockerfile.is_file() and stages(image)[-1:] != [ENVIRONMENT_STAGE]


def copied_files(image: Image) -> dict[str, Path]:
    """What its Dockerfile may copy, by name within the folder: all of it but documents and the sources of its locks.

    `image.toml` is among them for a worker of its own; the harness as a worker gets it otherwise.
    """
    if not image.dockerfile.is_file():
        return {}
    return _files(image, _LEFT_OUT if brings_own_worker(image) else (*_LEFT_OUT, DESCRIPTION_NAME))


def own_modules(image: Image) -> dict[str, Path]:
    """The Python modules that an image whose worker is the harness brings beside its description, by file name."""
    return {path.name: path for path in sorted(image.folder.glob("*.py"))}


def _files(image: Image, left_out: tuple[str, ...]) -> dict[str, Path]:
    found = {path.relative_to(image.folder): path for path in sorted(image.folder.rglob("*")) if path.is_file()}
    return {
        name.as_posix(): path
        for name, path in found.items()
        if not {LOCKS_NAME, "__pycache__"} & set(name.parts) and not any(name.match(pattern) for pattern in left_out)
    }


def environment_owner(image: Image) -> Image:
    """The image whose environment this one has: itself, unless it adds nothing to its parent's."""
    adds = image.parent is None or image.dockerfile.is_file() or image.has_requirements
    return image if adds or image.parent is None else environment_owner(image.parent)


def environment_digest(image: Image, device: DeviceKind) -> Sha256:
    """Digest of every file that decides what is in the environment: its own, and those of all below it.

    Raises:
        BadImage: there is no lock for this device.
    """
    owner = environment_owner(image)
    return digest_of(
        {
            "device": device.value,
            "dockerfile": digest_file(environment_dockerfile(owner)),
            "files": _contents(copied_files(owner)),
            "lock": owner.lock_digest(device),
            "below": _below(owner, device),
        }
    )


def _below(image: Image, device: DeviceKind) -> str:
    if image.description.foundation is not None:
        return image.description.foundation
    return base_digest(image.project) if image.parent is None else environment_digest(image.parent, device)


def _contents(files: dict[str, Path]) -> dict[str, list[str | bool]]:
    """The digest of each file, and whether it can be executed."""
    return {name: [digest_file(path), bool(path.stat().st_mode & 0o100)] for name, path in files.items()}


def build_digest(image: Image, device: DeviceKind) -> Sha256:
    """Digest of everything that goes into the image: what decides its identity, the harness, and `image.toml`."""
    content: dict[str, object] = {"environment": environment_digest(image, device)}
    if not brings_own_worker(image):
        content |= {
            "worker": digest_file(worker_dockerfile(image)),
            "description": digest_file(image.description_path),
            "harness": harness_digest(),
            "modules": _contents(own_modules(image)),
        }
    elif _COPIES_HARNESS.search(image.dockerfile.read_text(encoding="utf-8")):
        content["harness"] = harness_digest()
    return digest_of(content)


def container_identity(image: Image, device: DeviceKind, packages: str | None) -> ImageIdentity:
    """What a container of the image is, for results: its inputs, whatever id a build gave it.

    The harness and the words of `image.toml` are not in it: of both a stage's key has what its operation uses.
    `packages` is the digest of the Debian packages below, None on a vendor's foundation.
    """
    inputs: dict[str, object] = {"environment": environment_digest(image, device), "packages": packages}
    if not brings_own_worker(image):
        inputs["worker"] = digest_file(worker_dockerfile(image))
        if modules := own_modules(image):
            inputs["modules"] = _contents(modules)
    return ImageIdentity(f"docker:inputs:{digest_of(inputs)}")


def process_identity(image: Image, lock: Sha256, abi: str) -> ImageIdentity:
    """What a process of the image is, for results: the lock that is installed, the Python, and what its folder brings.

    That is every file for an image with a command of its own, else its modules.
    """
    own = _contents(_files(image, _LEFT_OUT) if image.description.command else own_modules(image))
    brought = f":files-{digest_of(own)}" if own else ""
    return ImageIdentity(f"process:{lock}:{abi}{brought}")


def image_tag(image: Image, device: DeviceKind) -> str:
    """The name under which the engine has the image: that of this build, or of the prebuilt one."""
    if image.description.prebuilt is not None:
        return image.description.prebuilt
    return f"llmcbench/{image.name}:{build_digest(image, device)[:_TAG_DIGITS]}-{device.value}"


def environment_tag(image: Image, device: DeviceKind) -> str:
    owner = environment_owner(image)
    digits = environment_digest(owner, device)[:_TAG_DIGITS]
    return f"llmcbench/{owner.name}:{digits}-{device.value}-{ENVIRONMENT_STAGE}"


def all_tags(image: Image, device: DeviceKind) -> tuple[str, ...]:
    """The tags of the image and of everything below it that is built here."""
    if image.description.prebuilt is not None:
        return ()
    tags = [image_tag(image, device)]
    layer: Image | None = image if not brings_own_worker(image) else image.parent
    lowest = image
    while layer is not None:
        lowest = environment_owner(layer)
        tags.append(environment_tag(lowest, device))
        layer = lowest.parent
    return tuple(tags) if lowest.description.foundation is not None else (*tags, base_tag(image.project))
