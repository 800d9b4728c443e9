"""The parts of the methods' pages that are data: what `image.toml` and `options.json` say of each.

A page says where they go: between `<!-- facts: NAME -->` and `<!-- end of facts -->`, where a name may end with `*`;
and in `docs/methods.md` between `<!-- index of methods -->` and its end.
"""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from harness.contract import MethodDescription
from orchestrator.images.catalog import ImageCatalog
from orchestrator.installation import shipped_images

DOCS = Path(__file__).parents[1] / "docs"
METHOD_PAGES = sorted(path.relative_to(DOCS).as_posix() for path in (DOCS / "methods").glob("*.md"))
_FACTS = re.compile(r"<!-- facts: (?P<names>.+) -->\n.*?<!-- end of facts -->", re.DOTALL)
_INDEX = re.compile(r"<!-- index of methods -->\n.*?<!-- end of index -->", re.DOTALL)


def offered() -> dict[str, tuple[str, MethodDescription]]:
    """By a method's name the image that offers it and what that says of it, in the order of names."""
    images = ImageCatalog(shipped_images()).images.values()
    found = {method.name: (image.name, method) for image in images for method in image.description.methods}
    return dict(sorted(found.items()))


def page_with_facts(name: str) -> str:
    """The page below `docs/`, with its facts as they are now."""
    return _FACTS.sub(_block, (DOCS / name).read_text("utf-8"))


def index_page() -> str:
    """docs/methods.md, with its table as it is now."""
    table = "\n".join(
        ["| method | does | settings | by default | result |", "| --- | --- | --- | --- | --- |", *_rows()]
    )
    return _INDEX.sub(
        lambda _: f"<!-- index of methods -->\n\n{table}\n\n<!-- end of index -->",
        (DOCS / "methods.md").read_text("utf-8"),
    )


def _rows() -> Iterable[str]:
    for page in METHOD_PAGES:
        (patterns,) = [match["names"].split() for match in _FACTS.finditer((DOCS / page).read_text("utf-8"))]
        methods = _matching(patterns)
        if len(methods) == 1:
            (_, one), *_ = methods
            baseline = " A baseline." if one.baseline else ""
            rest = f"{one.summary}.{baseline} | {_settings(one)} | `{one.default_setting}` | {_result(one)}"
        else:
            rest = f"{len(methods)} methods | by method | by method | {', '.join(_formats(methods))}"
        title = (DOCS / page).read_text("utf-8").splitlines()[0].removeprefix("# ")
        yield f"| [{title}]({page}) | {rest} |"


def _formats(methods: list[tuple[str, MethodDescription]]) -> list[str]:
    return list(dict.fromkeys(f"`{one.produces.value}`" for _, one in methods))


def _matching(patterns: list[str]) -> list[tuple[str, MethodDescription]]:
    return [
        (image, method)
        for image, method in offered().values()
        if any(fnmatchcase(method.name, pattern) for pattern in patterns)
    ]


def _block(found: "re.Match[str]") -> str:
    methods = _matching(found["names"].split())
    table = _one(*methods[0]) if len(methods) == 1 else _several(methods)
    return f"<!-- facts: {found['names']} -->\n\n{table}\n\n<!-- end of facts -->"


def _one(image: str, method: MethodDescription) -> str:
    rows = {
        "does": f"{method.summary}",
        "in a manifest": f"`method: {method.name}`",
        "settings": _settings(method),
        "setting by default": f"`{method.default_setting}`",
        "calibration by default": _calibration(method),
        "result": _result(method),
        "architectures": ", ".join(f"`{name}`" for name in method.architectures),
    }
    return "\n".join(
        [
            f"| fact | from `images/{image}/image.toml` |",
            "| --- | --- |",
            *(f"| {name} | {text} |" for name, text in rows.items()),
        ]
    )


def _several(methods: list[tuple[str, MethodDescription]]) -> str:
    rows = [
        f"| `{method.name}` | {method.summary} | {_settings(method)} | `{method.default_setting}` "
        f"| {_calibration(method)} |"
        for _, method in methods
    ]
    head = "| method | does | settings | by default | calibration by default |"
    return "\n".join([head, "| --- | --- | --- | --- | --- |", *rows])


def _settings(method: MethodDescription) -> str:
    groups = "; with any group, such as `W4A16g128`" if method.any_group else ""
    listed = ", ".join(f"`{pattern}`" for pattern in method.patterns)
    parts = ["any ratio" if method.any_ratio else "", "`official-flag:N%`" if method.official_flag else "", listed]
    return ", ".join(filter(None, parts)) + groups


def _calibration(method: MethodDescription) -> str:
    if method.calibration is None:
        return "none: no text is looked at"
    asked = method.calibration
    policy = f", policy `{asked.policy.value}`" if asked.policy else ""
    return f"{asked.dataset}, {asked.samples} of {asked.sequence_length} tokens, seed {asked.seed}{policy}"


def _result(method: MethodDescription) -> str:
    others = [f"`{made.value}` at {setting}" for setting, made in method.produces_for.items()]
    others += [
        f"`{made.value}` with `layout: {layout}`" for layout, made in method.layouts.items() if made != method.produces
    ]
    return "; ".join([f"`{method.produces.value}`", *others])
