"""Which source of the harness a piece of work can load: part of its key, and of what an interrupted one goes on from.

Modules are read and never imported, so the host needs none of their libraries. What is found is never too little:
imports within functions count, and so does every module or file that a module names in a string. Only what stands under
`if TYPE_CHECKING` does not.
"""

import ast
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from harness.contract.artifact import CheckpointFormat
from harness.contract.base import Sha256
from harness.contract.image import ImageDescription
from harness.contract.request import (
    BenchmarkParameters,
    CompressParameters,
    EvaluateParameters,
    ExportParameters,
    FidelityParameters,
    Operation,
    Parameters,
    StatesParameters,
)

_SUFFIXES = {".py", ".yaml", ".toml"}
_ROOMS = {
    Operation.FETCH: "fetch",
    Operation.COMPRESS: "methods",
    Operation.EXPORT: "exporting",
    Operation.EVALUATE: "evaluation",
    Operation.STATES: "fidelity.keeping",
    Operation.FIDELITY: "fidelity.comparing",
    Operation.PROFILE: "profiling",
    Operation.BENCHMARK: "backends",
}
_NAMED_MODULE = re.compile(r"""(["'])(harness(?:\.\w+)+)\1""")


def harness_folder() -> Path:
    """The harness package itself, which images are built from and process environments import."""
    return Path(__file__).parent.parent


@cache
def harness_digest() -> str:
    """sha256 over the names, sizes and contents of all of the harness's source files."""
    root = harness_folder()
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.suffix in _SUFFIXES:
            digest.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def operation_module(operation: Operation) -> str:
    """The package or module whose `run` performs `operation`."""
    return f"harness.{_ROOMS[operation]}"


def export_module(target: CheckpointFormat) -> str:
    """The module whose `convert` writes in the layout `target`. Not there for a layout that nothing is exported to."""
    return f"{operation_module(Operation.EXPORT)}.to_{target.name.lower()}"


def work_source(image: ImageDescription, operation: Operation, parameters: Parameters) -> dict[str, Sha256]:
    """The files that a worker of `image` can load for this work, such as `harness/methods/wanda.py`, with their sha256.

    Sorted by name. What changes none of them changes nothing that the work does by itself. A module of the image's own,
    which is none of the harness, may import any of it.
    """
    tree = _tree(harness_folder())
    roots = tuple(_roots(image, operation, parameters))
    if any(name.partition(".")[0] != harness_folder().name for name in roots):
        roots += tree.modules()
    files = dict(tree.loadable(roots))
    if isinstance(parameters, EvaluateParameters | StatesParameters):
        files |= tree.data(f"{operation_module(Operation.EVALUATE).replace('.', '/')}/tasks/{parameters.task}.yaml")
    return dict(sorted(files.items()))


def _roots(image: ImageDescription, operation: Operation, parameters: Parameters) -> Iterator[str]:
    """The modules that are imported first, or by names that only the request and the description give."""
    yield "harness.__main__"
    yield operation_module(operation)
    if isinstance(parameters, ExportParameters):
        yield export_module(parameters.target)
    elif isinstance(parameters, CompressParameters):
        yield from (one.module for one in image.methods if one.module and one.name == parameters.method)
    elif isinstance(parameters, BenchmarkParameters | EvaluateParameters | FidelityParameters):
        name = parameters.backend if isinstance(parameters, BenchmarkParameters) else parameters.engine
        yield from (one.module for one in image.backends if one.module and one.name == name)


@cache
def _tree(folder: Path) -> "SourceTree":
    return SourceTree(folder)


@dataclass(frozen=True)
class _Module:
    """`names` are modules that it loads; some are no modules but attributes. `files` are its own and data beside it."""

    files: Mapping[str, Sha256]
    names: frozenset[str]


class SourceTree:
    """A package on disk, named by its folder, as it was when each file was first looked at."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parent = folder.parent
        self._modules: dict[str, _Module | None] = {}
        self._loadable: dict[tuple[str, ...], Mapping[str, Sha256]] = {}
        self._data: dict[str, Mapping[str, Sha256]] = {}

    def modules(self) -> tuple[str, ...]:
        """The name of every module of the package."""
        return tuple(
            ".".join(path.relative_to(self._parent).with_suffix("").parts)
            for path in sorted(self._folder.rglob("*.py"))
        )

    def loadable(self, roots: tuple[str, ...]) -> Mapping[str, Sha256]:
        """Every file that importing the modules `roots` and using them can load, with its sha256."""
        if roots not in self._loadable:
            self._loadable[roots] = self._found_from(roots)
        return self._loadable[roots]

    def _found_from(self, roots: Iterable[str]) -> Mapping[str, Sha256]:
        files: dict[str, Sha256] = {}
        seen: set[str] = set()
        pending = list(roots)
        while pending:
            name = pending.pop()
            if name in seen:
                continue
            seen.add(name)
            above, _, _ = name.rpartition(".")
            pending += [above] if above else []
            if module := self._module(name):
                files |= module.files
                pending += module.names
        return files

    def _module(self, name: str) -> _Module | None:
        if name not in self._modules:
            path = self._parent.joinpath(*name.split("."))
            found = [one for one in (path / "__init__.py", path.with_suffix(".py")) if one.is_file()]
            self._modules[name] = self._read(found[0], name) if found else None
        return self._modules[name]

    def _read(self, path: Path, name: str) -> _Module:
        content = path.read_bytes()
        text = content.decode("utf-8")
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        own = {self._name(path): hashlib.sha256(content).hexdigest()}
        return _Module(own | dict(self._named_data(path.parent, text)), _names(text, package))

    def data(self, name: str) -> Mapping[str, Sha256]:
        """A file that is no module, or all files of a folder that is no package, with their sha256; empty for none."""
        if name not in self._data:
            self._data[name] = self._digests(name)
        return self._data[name]

    def _digests(self, name: str) -> Mapping[str, Sha256]:
        path = self._parent / name
        files = [path] if path.is_file() else (file for file in path.rglob("*") if file.is_file())
        return {self._name(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}

    def _named_data(self, folder: Path, text: str) -> Iterator[tuple[str, Sha256]]:
        """The data beside a module that its `text` names in a string."""
        for entry in folder.iterdir():
            is_python = entry.suffix == ".py" or (entry / "__init__.py").is_file() or entry.name == "__pycache__"
            if not is_python and re.search(rf"""(["']){re.escape(entry.name)}\1""", text):
                yield from self.data(self._name(entry)).items()

    def _name(self, path: Path) -> str:
        return path.relative_to(self._parent).as_posix()


@lru_cache(maxsize=1024)
def _names(text: str, package: str) -> frozenset[str]:
    """The names of modules that a module of `package` has in its text, in strings or imports. Of the text alone."""
    named = {found.group(2) for found in _NAMED_MODULE.finditer(text)}
    return frozenset(named.union(_imports(ast.parse(text), package)))


def _imports(tree: ast.Module, package: str) -> Iterator[str]:
    """The dotted names that a module imports anywhere, each also with what it takes from there."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            above = parts[: len(parts) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            pending += node.orelse
        else:
            pending += (one for one in ast.iter_child_nodes(node) if isinstance(one, _STATEMENTS))


_STATEMENTS = (ast.stmt, ast.excepthandler, ast.match_case)
