import tomllib
from pathlib import Path

from harness.contract import CompressParameters, ImageDescription, Setting
from harness.methods.job import parse_request
from harness.models.blocks import KNOWN_ARCHITECTURES

IMAGES = Path(__file__).parents[2] / "images"
IMAGE = IMAGES / "llm-pruner"


def describe():
    return ImageDescription.model_validate(tomllib.loads((IMAGE / "image.toml").read_text(encoding="utf-8")))


def test_the_image_lists_the_architectures_that_the_code_knows():
    (method,) = describe().methods
    assert set(method.architectures) == set(KNOWN_ARCHITECTURES)


def test_the_method_takes_every_setting_that_its_image_offers():
    (method,) = describe().methods
    assert (method.any_ratio, method.official_flag, method.recovery) == (True, True, True)
    for setting in (method.default_setting, "12.5%", "official-flag:25%"):
        parameters = CompressParameters(
            method=method.name, setting=Setting.parse(setting), calibration=method.calibration.model_dump()
        )
        assert parse_request(parameters).options.model_dump()["lora_rank"] == 8


def test_the_readme_names_every_option_with_its_default():
    (method,) = describe().methods
    parameters = CompressParameters(
        method=method.name, setting=Setting.parse("20%"), calibration=method.calibration.model_dump()
    )
    readme = (IMAGE / "README.md").read_text(encoding="utf-8").replace("1e-4", "0.0001")
    for name, value in parse_request(parameters).options.model_dump().items():
        shown = str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else value
        assert f"`{name}` {shown}" in readme


def test_the_image_is_built_like_its_sibling():
    mine, sibling = ((IMAGES / name / "Dockerfile").read_text() for name in ("llm-pruner", "sparsegpt"))
    assert mine.splitlines()[1:] == sibling.splitlines()[1:]
