"""Writes the folder of a new image: small, working, and passing `orchestrator images check` as it stands."""

import re
from enum import StrEnum
from pathlib import Path

from orchestrator.errors import BadManifest

_TEMPLATES = Path(__file__).parent / "templates"
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


class Kind(StrEnum):
    METHOD = "method"
    BACKEND = "backend"


class Language(StrEnum):
    """`python`: a module for the harness. `shell`: the contract by itself, as in any other language."""

    PYTHON = "python"
    SHELL = "shell"


def write_image(name: str, kind: Kind, language: Language, parent: Path) -> Path:
    """Write a working image of this name into a new folder `parent/name`, and return it.

    Raises:
        BadManifest: the name cannot be an image's, or the folder is there already.
    """
    if not _NAME.fullmatch(name):
        raise BadManifest(
            f"{name!r} cannot be the name of an image", hint="use small letters, digits and single hyphens: my-method"
        )
    folder = parent / name
    if folder.exists():
        raise BadManifest(f"{folder} exists already", hint="choose another name, or another folder with --into")
    module = f"{name.replace('-', '_')}_{kind.value}"
    for template in (_TEMPLATES / language.value, _TEMPLATES / f"{kind.value}-{language.value}"):
        for path in sorted(template.rglob("*")):
            if not path.is_file() or "__pycache__" in path.parts:
                continue
            target = folder / path.relative_to(template)
            if target.name == "module.py":
                target = target.with_name(f"{module}.py")
            target.parent.mkdir(parents=True, exist_ok=True)
            text = path.read_text(encoding="utf-8")
            target.write_text(text.replace("@NAME@", name).replace("@MODULE@", module), encoding="utf-8")
    return folder
