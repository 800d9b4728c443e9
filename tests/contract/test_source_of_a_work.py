"""The source that a piece of work can load: all that a module names in whatever way, and nothing beside it."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from harness.contract import (
    BenchmarkParameters,
    CompressParameters,
    EvaluateParameters,
    ExportParameters,
    FidelityParameters,
    Operation,
    Parameters,
    Setting,
    StatesParameters,
    work_source,
)
from harness.contract.source import SourceTree, harness_folder
from orchestrator.images.catalog import ImageCatalog
from orchestrator.images.image import Image

CATALOG = ImageCatalog(Path(__file__).parents[2] / "images")
FOLDER = {
    "harness/__init__.py": "",
    "harness/base.py": "",
    "harness/other.py": "",
    "harness/room/__init__.py": "",
    "harness/room/used.py": "from harness import base",
    "harness/room/unused.py": "from harness import other",
    "harness/room/words.txt": "some words",
    "harness/room/tables/first/one.csv": "1",
    "harness/room/tables/two.csv": "2",
    "harness/room/inner/__init__.py": "",
    "harness/room/inner/deep.py": "",
}
ABOVE = {"harness/__init__.py", "harness/room/__init__.py"}
USED = {"harness/room/used.py", "harness/base.py"}


def loadable(folder: Path, text: str, name: str = "harness/room/asking.py") -> Mapping[str, str]:
    """What the module of this text, beside those of `FOLDER`, can load."""
    for file, content in (FOLDER | {name: text}).items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(content, encoding="utf-8")
    return SourceTree(folder / "harness").loadable(
        (name.removesuffix(".py").removesuffix("/__init__").replace("/", "."),)
    )


@pytest.mark.parametrize(
    "text",
    [
        "import harness.room.used",
        "import json, harness.room.used as another",
        "from harness.room import used",
        "from harness.room.used import something",
        "from . import used",
        "from .used import something",
        "from ..room import used",
        "from ..room.used import something",
        "def later():\n    from . import used",
        "async def later():\n    from . import used",
        "class Holder:\n    from . import used",
        "if something:\n    pass\nelif other:\n    from . import used",
        "if TYPE_CHECKING:\n    pass\nelse:\n    from . import used",
        "if not_TYPE_CHECKING_alone:\n    from . import used",
        "try:\n    from . import used\nfinally:\n    pass",
        "try:\n    pass\nexcept ImportError:\n    from . import used",
        "for one in many:\n    pass\nelse:\n    from . import used",
        "with some:\n    from . import used",
        "match some:\n    case 1:\n        from . import used",
        "from . import used\nif TYPE_CHECKING:\n    pass",
        "NAME = 'harness.room.used'",
        'NAMES = {"one": "harness.room.used"}',
    ],
)
def test_whatever_way_a_module_is_named_it_counts_with_all_that_it_loads(text: str, tmp_path: Path) -> None:
    assert loadable(tmp_path, text).keys() == {*ABOVE, *USED, "harness/room/asking.py"}


def test_what_lies_beside_the_package_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "__init__.py").write_text("import harness.other", encoding="utf-8")
    assert loadable(tmp_path, "from . import used").keys() == {*ABOVE, *USED, "harness/room/asking.py"}


@pytest.mark.parametrize("text", ["from .. import used", "from ..used import something", "import harness.room.used"])
def test_a_packages_own_imports_are_relative_to_itself(text: str, tmp_path: Path) -> None:
    inner = "harness/room/inner/__init__.py"
    assert loadable(tmp_path, text, inner).keys() == {*ABOVE, *USED, inner}
    assert loadable(tmp_path, "from .deep import all", inner).keys() == {*ABOVE, inner, "harness/room/inner/deep.py"}


@pytest.mark.parametrize(
    "text",
    [
        "import elsewhere.room.used",
        "from elsewhere import used",
        "if TYPE_CHECKING:\n    from . import used",
        "if typing.TYPE_CHECKING:\n    from . import used",
        "# harness.room.used",
        "NAME = 'harness.room.used.'",
        "FILE = 'used.py'",
        "used = 'inner'",
        "text = 'words' + '.txt'",
        "text = 'words_txt'",
    ],
)
def test_what_is_not_loaded_does_not_count(text: str, tmp_path: Path) -> None:
    assert loadable(tmp_path, text).keys() == {*ABOVE, "harness/room/asking.py"}


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("FILE = 'words.txt'", {"harness/room/words.txt"}),
        ('FILE = "words.txt"', {"harness/room/words.txt"}),
        ("FOLDER = 'tables'", {"harness/room/tables/first/one.csv", "harness/room/tables/two.csv"}),
    ],
)
def test_data_beside_a_module_counts_where_it_is_named(text: str, data: set[str], tmp_path: Path) -> None:
    assert loadable(tmp_path, text).keys() == {*ABOVE, *data, "harness/room/asking.py"}


def test_each_file_goes_with_the_digest_of_its_content(tmp_path: Path) -> None:
    found = loadable(tmp_path, "from . import used\nFILE = 'words.txt'")
    assert found == {name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in found}


def asked() -> Iterator[tuple[str, Image, Operation, Parameters, set[str]]]:
    """Work of each kind, and the files whose names only the request and the image's description tell."""
    for image, method in CATALOG.methods.values():
        request = CompressParameters(method=method.name, setting=Setting.parse("50%"))
        yield f"compress-{method.name}", image, Operation.COMPRESS, request, {file_of(method.module)}
    for image, backend in CATALOG.backends.values():
        module = {file_of(backend.module)}
        yield f"benchmark-{backend.name}", image, Operation.BENCHMARK, BenchmarkParameters(backend=backend.name), module
        evaluation = EvaluateParameters(task="arc_easy", engine=backend.name)
        task = {"harness/evaluation/tasks/arc_easy.yaml"}
        yield f"evaluate-{backend.name}", image, Operation.EVALUATE, evaluation, module | task
        fidelity = FidelityParameters(task="wikitext2", engine=backend.name)
        yield f"fidelity-{backend.name}", image, Operation.FIDELITY, fidelity, module
    (image,) = CATALOG.offering(Operation.STATES)
    task = {"harness/evaluation/tasks/wikitext2.yaml"}
    yield "states", image, Operation.STATES, StatesParameters(task="wikitext2"), task
    (image,) = CATALOG.offering(Operation.EXPORT)
    for target in dict.fromkeys(export.target for export in image.description.exports):
        module = {f"harness/exporting/to_{target.name.lower()}.py"}
        yield f"export-{target}", image, Operation.EXPORT, ExportParameters(target=target), module


def file_of(module: str | None) -> str:
    """Of a module or a package."""
    assert module is not None
    path = harness_folder().parent.joinpath(*module.split("."))
    found = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return found.relative_to(harness_folder().parent).as_posix()


@pytest.mark.parametrize(
    ("image", "operation", "parameters", "named"), [pytest.param(*one, id=name) for name, *one in asked()]
)
def test_what_request_and_description_name_counts_and_what_they_name_elsewhere_does_not(
    image: Image, operation: Operation, parameters: Parameters, named: set[str]
) -> None:
    found = work_source(image.description, operation, parameters).keys()
    assert named <= found
    assert {"harness/__main__.py", "harness/serve.py", "harness/contract/base.py"} <= found
    assert list(found) == sorted(found)
    tasks = {name for name in found if name.startswith("harness/evaluation/tasks/") and name.endswith(".yaml")}
    assert tasks == {name for name in named if name.endswith(".yaml")}


def test_a_module_of_ones_own_may_load_any_of_the_harness() -> None:
    image, method = CATALOG.methods["wanda"]
    own = method.model_copy(update={"module": "ours.method"})
    description = image.description.model_copy(update={"methods": (own,)})
    request = CompressParameters(method=own.name, setting=Setting.parse("50%"))
    found = work_source(description, Operation.COMPRESS, request)
    python = {path.relative_to(harness_folder().parent).as_posix() for path in harness_folder().rglob("*.py")}
    assert python <= found.keys()
