import tomllib
from pathlib import Path

from harness.contract import CompressParameters, ImageDescription, Setting
from harness.methods.job import parse_request
from harness.models.blocks import KNOWN_ARCHITECTURES

IMAGE = Path(__file__).parents[2] / "images" / "gptq" / "image.toml"


def describe():
    return ImageDescription.model_validate(tomllib.loads(IMAGE.read_text(encoding="utf-8")))


def test_the_image_lists_the_architectures_that_the_code_knows():
    (method,) = describe().methods
    assert set(method.architectures) == set(KNOWN_ARCHITECTURES)


def test_the_method_takes_every_setting_that_its_image_offers():
    (method,) = describe().methods
    for setting in (method.default_setting, *method.patterns, "W3A16g96"):
        parameters = CompressParameters(
            method=method.name, setting=Setting.parse(setting), calibration=method.calibration.model_dump()
        )
        assert parse_request(parameters).options.model_dump()["blocksize"] == 128


def test_the_image_says_which_format_each_layout_is():
    (method,) = describe().methods
    for layout, expected in method.layouts.items():
        parameters = CompressParameters(
            method=method.name,
            setting=Setting.parse(method.default_setting),
            calibration=method.calibration.model_dump(),
            options={"layout": layout},
        )
        assert parse_request(parameters).checkpoint_format is expected
    assert method.layouts[parse_default(method).options.model_dump()["layout"]] is method.produces


def parse_default(method):
    return parse_request(
        CompressParameters(
            method=method.name,
            setting=Setting.parse(method.default_setting),
            calibration=method.calibration.model_dump(),
        )
    )
