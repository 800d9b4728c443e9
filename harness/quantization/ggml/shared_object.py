"""The shared object of the wheel `xllamacpp`, which holds llama.cpp and ggml, at the one version that is known."""

import ctypes
import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.contract import Reason
from harness.errors import Unsupported

VERSION = "2026.10.11549"
PACKAGE = "xllamacpp"
HINT = "use the image `llama-cpp`, or one that builds on it, whose lock holds the version"

Functions = Mapping[str, tuple[Any, tuple[Any, ...]]]
"""By name, what a function returns, and takes."""


def open_shared_object(functions: Functions) -> Any:
    """The shared object, with `functions` declared.

    Raises:
        Unsupported: it is not installed, is of another version, or lacks one of them.
    """
    try:
        version = importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError as absent:
        raise Unsupported(Reason.BACKEND, f"{PACKAGE}, which holds llama.cpp, is not installed", hint=HINT) from absent
    if version != VERSION:
        raise Unsupported(
            Reason.BACKEND, f"{PACKAGE} is {version}, and llama.cpp's structures are known for {VERSION}", hint=HINT
        )
    try:
        library = ctypes.CDLL(str(_path()))
        for name, (returned, taken) in functions.items():
            function: Callable[..., Any] = getattr(library, name)
            function.restype, function.argtypes = returned, taken  # type: ignore[attr-defined]
    except (OSError, AttributeError) as failure:
        raise Unsupported(Reason.BACKEND, f"llama.cpp cannot be loaded: {failure}", hint=HINT) from failure
    return library


def _path() -> Path:
    found = importlib.util.find_spec(PACKAGE)
    places = list(found.submodule_search_locations or ()) if found is not None else []
    return next((path for place in places for path in Path(place).glob(f"{PACKAGE}*.so")), Path(f"{PACKAGE}.so"))
