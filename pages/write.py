"""Writes every generated page of `docs/`: `python -m pages.write`, or `make pages`.

A page is here if it comes from the code alone. Those that come from what was measured are written by scripts of
`benchmarks/`, beside the figures.
"""

import json
from collections.abc import Callable
from functools import partial

from harness.contract import ImageDescription
from harness.contract.schema import contract_schema
from orchestrator.manifest import Manifest
from orchestrator.report.paper_audit import audit_page
from pages.commands import commands_page
from pages.data_sets import data_sets_page
from pages.fields import fields_page
from pages.methods import DOCS, METHOD_PAGES, index_page, page_with_facts
from pages.tracks import concepts_page

_MANIFEST = """# Fields of a manifest

Written from the program's own models by `make pages`; [manifests](../manifests.md) explains them. A single name stands
for a list of one where a field takes both.

An editor that knows JSON Schema completes and checks a manifest with
[manifest.schema.json](../../orchestrator/manifest/manifest.schema.json), which `orchestrator manifest schema` prints.
For editors with the YAML language server the first line of a manifest names it:

```yaml
# yaml-language-server: $schema=manifest.schema.json
```

It marks fields that are not there, other kinds of values and bounds. What is missing, and what does not go together,
`orchestrator plan` finds.
"""

_IMAGE = """# Fields of image.toml

Written from the contract's models by `make pages`; [images](../images.md) explains them, and
[adding a method](../adding-a-method.md) makes one.
"""

_CONTRACT = """# Fields of the contract

Written from the contract's models by `make pages`; [the contract](../contract.md) explains the exchange. The same as
JSON Schema: [schema.json](../../harness/contract/schema.json).
"""


def _contract_page() -> str:
    return fields_page(_CONTRACT, json.loads(contract_schema()))


PAGES: dict[str, Callable[[], str]] = {
    "reference/commands.md": commands_page,
    "reference/manifest-fields.md": lambda: fields_page(_MANIFEST, Manifest.model_json_schema()),
    "reference/image-fields.md": lambda: fields_page(_IMAGE, ImageDescription.model_json_schema()),
    "reference/contract-fields.md": _contract_page,
    "reference/data-sets.md": data_sets_page,
    "concepts.md": concepts_page,
    "paper-audit.md": audit_page,
    "methods.md": index_page,
    **{name: partial(page_with_facts, name) for name in METHOD_PAGES},
}
"""By the path below `docs/`: what makes the text. Of concepts and methods only a table is made."""


def main() -> None:
    for name, text in PAGES.items():
        path = DOCS / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    main()
