"""Pages and schemas that are made from the code: each as it would be made now, and what they must not leave out."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from jsonschema.protocols import Validator
from ruamel.yaml import YAML
from typer.testing import CliRunner

from orchestrator.cli.app import app
from orchestrator.images.catalog import ImageCatalog
from orchestrator.manifest.schema import PATH, manifest_schema
from pages.commonmark import indented
from pages.fields import fields_page
from pages.methods import METHOD_PAGES, offered
from pages.write import DOCS, PAGES

ROOT = Path(__file__).parents[2]
MANIFESTS = sorted((ROOT / "manifests").rglob("*.yaml"))
MANIFESTS = [path for path in MANIFESTS if path.parent.name != "claims"]
OPTION_ROW = re.compile(r"^\| (`[a-z_]+`(?:, `[a-z_]+`)*) \| ([^|]*) \|", re.MULTILINE)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_as_the_code_makes_it(name: str) -> None:
    assert (DOCS / name).read_text("utf-8") == PAGES[name](), "`make pages` writes it anew"


def test_the_schema_of_manifests_is_as_the_models_make_it_and_is_printed() -> None:
    assert PATH.read_text("utf-8") == manifest_schema(), "`make schema` writes it anew"
    assert CliRunner().invoke(app, ["manifest", "schema"]).stdout == manifest_schema()


@pytest.fixture(scope="module")
def editor() -> Validator:
    schema = json.loads(manifest_schema())
    kind = jsonschema.validators.validator_for(schema)
    kind.check_schema(schema)
    return kind(schema)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.relative_to(ROOT / "manifests").as_posix())
def test_an_editor_finds_nothing_wrong_with_a_manifest_of_ours(editor: Validator, path: Path) -> None:
    editor.validate(_loaded(path.read_text("utf-8")))


@pytest.mark.parametrize(
    "text",
    [
        "compres: [{}]",
        "compress: []",
        "models: [{name: a, surce: b}]",
        "rounds: {profile: 0}",
        "evaluate: {tasks: 3}",
        "include: 1",
    ],
)
def test_an_editor_finds_a_misspelt_field_another_kind_and_a_bound(editor: Validator, text: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        editor.validate(_loaded(text))


def _loaded(text: str) -> Any:
    """As the program reads it: YAML 1.2."""
    return json.loads(json.dumps(YAML(typ="safe", pure=True).load(text)))


def test_every_page_is_in_the_navigation_once() -> None:
    listed = list(_pages_of(yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"]))
    there = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    assert sorted(listed) == sorted(there)


def _pages_of(entry: Any) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    inner = entry.values() if isinstance(entry, dict) else entry
    return [page for one in inner for page in _pages_of(one)]


def test_every_method_that_an_image_offers_has_its_facts_on_one_page() -> None:
    for name in offered():
        rows = [f"`method: {name}`", f"| `{name}` |"]
        pages = [page for page in METHOD_PAGES if any(row in (DOCS / page).read_text("utf-8") for row in rows)]
        assert len(pages) == 1, name


@pytest.mark.parametrize(
    "method", ["awq", "gptq", "gguf-q4_k", "llm-pruner", "omniquant", "rtn", "smoothquant", "sparsegpt", "wanda"]
)
def test_the_page_explains_every_option_and_its_default(method: str) -> None:
    image, _ = offered()[method]
    folder = ImageCatalog(ROOT / "images").images[image].folder
    schema = json.loads((folder / "options.json").read_text("utf-8"))["methods"][method]["properties"]
    page = (DOCS / "methods" / f"{method.partition('-q4_k')[0]}.md").read_text("utf-8")
    table = page[page.index("| option | default | meaning |") :].split("\n\n")[0]
    explained = {}
    for names, defaults in OPTION_ROW.findall(table):
        found = names.replace("`", "").split(", ")
        each = defaults.split(", ") if len(found) == len(defaults.split(", ")) else [defaults] * len(found)
        explained |= dict(zip(found, each, strict=True))
    assert set(explained) == set(schema)
    for name, option in schema.items():
        said, default = explained[name].strip("` "), option["default"]
        if isinstance(default, bool):
            assert said == str(default).lower(), name
        elif isinstance(default, int | float):
            assert float(said.replace("10⁻⁴", "1e-4")) == default, name
        elif default is not None:
            assert said == default or said.startswith("by "), name


def test_the_page_of_commands_has_every_option() -> None:
    page = (DOCS / "reference" / "commands.md").read_text("utf-8")
    shown = CliRunner().invoke(app, ["recommend", "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}).stdout
    options = set(re.findall(r"--[a-z][a-z-]+", shown)) - {"--help"}
    section = page[page.index("## `orchestrator recommend`") :].split("\n## ")[0]
    assert len(options) > 8
    assert [option for option in options if f"`{option}" not in section] == []


def test_a_table_of_fields_says_kinds_bounds_and_defaults() -> None:
    schema = {
        "properties": {
            "size": {"type": "integer", "exclusiveMinimum": 0, "default": 4},
            "kind": {"$ref": "#/$defs/Kind"},
            "parts": {"type": "array", "items": {"$ref": "#/$defs/Part"}, "default": []},
        },
        "required": ["kind"],
        "$defs": {
            "Kind": {"enum": ["a", "b"], "type": "string"},
            "Part": {"properties": {"name": {"type": "string"}}, "required": ["name"], "description": "A part."},
        },
    }
    page = fields_page("# Fields", schema)
    assert "| `size` | whole number, above 0 | `4` |" in page
    assert "| `kind` | `a`, `b` | required |" in page
    assert "| `parts` | list of [Part](#part) |  |" in page
    assert "## Part\n\nA part.\n\n| field" in page


def test_lists_are_indented_by_four_columns_and_fenced_blocks_move_with_them() -> None:
    text = "- one\n  two\n\n  ```sh\n  if x\n    y\n  ```\n1. a\n   - b\n     c\n\nend\n"
    assert indented(text) == (
        "- one\n    two\n\n    ```sh\n    if x\n      y\n    ```\n1. a\n    - b\n        c\n\nend\n"
    )
