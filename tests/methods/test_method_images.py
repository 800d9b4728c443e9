"""What the images of this project's own methods say, beside what tests/methods/test_every_method.py holds of all."""

from typing import Any

import pytest

from harness.architectures.blocks import KNOWN_ARCHITECTURES
from harness.methods.job import parse_request
from tests.methods.compress_requests import parameters_of
from tests.support.every_image import IMAGES
from tests.support.offered import IMAGE_OF, METHODS, settings_of

OWN = [name for name, image in IMAGE_OF.items() if image == name]
"""A peer's image has the library's name, and methods of several names."""


def parse(name: str, setting: str, **options: Any) -> Any:
    return parse_request(parameters_of(name, setting, **options))


@pytest.mark.parametrize("name", OWN)
def test_the_image_lists_the_architectures_that_the_code_knows(name: str) -> None:
    assert set(METHODS[name].architectures) == set(KNOWN_ARCHITECTURES)


@pytest.mark.parametrize("name", ["gptq", "omniquant", "rtn"])
def test_the_method_makes_of_every_setting_and_layout_the_format_that_its_image_says(name: str) -> None:
    method = METHODS[name]
    for setting in settings_of(method):
        bits = setting.partition("g")[0]
        assert parse(name, setting).checkpoint_format is method.produces_for.get(bits, method.produces)
    made = {layout: parse(name, "W4A16g128", layout=layout).checkpoint_format for layout in method.layouts}
    assert made == method.layouts


def test_llm_pruner_takes_the_official_flag_and_trains_afterwards() -> None:
    method = METHODS["llm-pruner"]
    assert (method.any_ratio, method.official_flag, method.recovery) == (True, True, True)
    assert parse("llm-pruner", "official-flag:25%").options == parse("llm-pruner", "25%").options


def test_llm_pruners_readme_names_every_option_with_its_default() -> None:
    readme = (IMAGES / "llm-pruner" / "README.md").read_text(encoding="utf-8").replace("1e-4", "0.0001")
    for name, value in parse("llm-pruner", "20%").options.model_dump().items():
        shown = str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else value
        assert f"`{name}` {shown}" in readme


@pytest.mark.parametrize("name", OWN)
def test_the_methods_images_differ_in_what_they_say_of_themselves_alone(name: str) -> None:
    assert {path.name for path in (IMAGES / name).iterdir()} == {"README.md", "image.toml", "options.json"}
