"""What each image says of its method is what the method's code does."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from harness.architectures.blocks import KNOWN_ARCHITECTURES
from harness.contract import CompressParameters, ImageDescription, MethodDescription, Setting
from harness.methods.job import parse_request

IMAGES = Path(__file__).parents[2] / "images"
DEFAULTS: dict[str, tuple[str, object]] = {
    "awq": ("n_grid", 20),
    "gptq": ("blocksize", 128),
    "llm-pruner": ("lora_rank", 8),
    "omniquant": ("lwc_lr", 0.01),
    "smoothquant": ("quantize_bmm", False),
    "sparsegpt": ("blocksize", 128),
    "wanda": ("variant", False),
}
"""An option of each method with its default."""
UNLISTED = {
    "awq": "W4A16g96",
    "gptq": "W3A16g96",
    "llm-pruner": "12.5%",
    "omniquant": "W3A16g96",
    "sparsegpt": "12.5%",
    "wanda": "12.5%",
}
"""A setting that the image lists by its ratio or group size alone; SmoothQuant has none."""


def described(name: str) -> MethodDescription:
    text = (IMAGES / name / "image.toml").read_text(encoding="utf-8")
    (method,) = ImageDescription.model_validate(tomllib.loads(text)).methods
    return method


def parse(method: MethodDescription, setting: str, **options: Any) -> Any:
    calibration = method.calibration.model_dump()
    return parse_request(
        CompressParameters(method=method.name, setting=Setting.parse(setting), calibration=calibration, options=options)
    )


def settings(name: str) -> list[str]:
    method = described(name)
    return [method.default_setting, *method.patterns, *([UNLISTED[name]] if name in UNLISTED else [])]


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_image_lists_the_architectures_that_the_code_knows(name: str) -> None:
    assert set(described(name).architectures) == set(KNOWN_ARCHITECTURES)


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_method_takes_every_setting_that_its_image_offers(name: str) -> None:
    option, default = DEFAULTS[name]
    for setting in settings(name):
        assert parse(described(name), setting).options.model_dump()[option] == default


@pytest.mark.parametrize("name", ["gptq", "omniquant"])
def test_the_method_makes_of_every_setting_and_layout_the_format_that_its_image_says(name: str) -> None:
    method = described(name)
    for setting in settings(name):
        bits = setting.partition("g")[0]
        assert parse(method, setting).checkpoint_format is method.produces_for.get(bits, method.produces)
    made = {layout: parse(method, "W4A16g128", layout=layout).checkpoint_format for layout in method.layouts}
    assert made == method.layouts


def test_llm_pruner_takes_the_official_flag_and_trains_afterwards() -> None:
    method = described("llm-pruner")
    assert (method.any_ratio, method.official_flag, method.recovery) == (True, True, True)
    assert parse(method, "official-flag:25%").options == parse(method, "25%").options


def test_llm_pruners_readme_names_every_option_with_its_default() -> None:
    readme = (IMAGES / "llm-pruner" / "README.md").read_text(encoding="utf-8").replace("1e-4", "0.0001")
    for name, value in parse(described("llm-pruner"), "20%").options.model_dump().items():
        shown = str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else value
        assert f"`{name}` {shown}" in readme


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_methods_images_are_built_alike(name: str) -> None:
    mine, sibling = ((IMAGES / image / "Dockerfile").read_text(encoding="utf-8") for image in (name, "sparsegpt"))
    assert mine.splitlines()[1:] == sibling.splitlines()[1:]
