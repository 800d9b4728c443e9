import tomllib
from pathlib import Path

from harness.contract import CompressParameters, ImageDescription, Setting
from harness.methods.job import parse_request
from harness.models.blocks import KNOWN_ARCHITECTURES

IMAGE = Path(__file__).parents[2] / "images" / "wanda" / "image.toml"


def describe():
    return ImageDescription.model_validate(tomllib.loads(IMAGE.read_text(encoding="utf-8")))


def test_the_image_lists_the_architectures_that_the_code_knows():
    (method,) = describe().methods
    assert set(method.architectures) == set(KNOWN_ARCHITECTURES)


def test_the_method_takes_every_setting_that_its_image_offers():
    (method,) = describe().methods
    for setting in (method.default_setting, *method.patterns, "12.5%"):
        parameters = CompressParameters(
            method=method.name, setting=Setting.parse(setting), calibration=method.calibration.model_dump()
        )
        assert parse_request(parameters).options.model_dump() == {"variant": False, "batch_size": 4}
