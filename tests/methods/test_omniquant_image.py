import tomllib
from pathlib import Path

from harness.contract import CompressParameters, ImageDescription, Setting
from harness.methods.job import parse_request
from harness.models.blocks import KNOWN_ARCHITECTURES

IMAGE = Path(__file__).parents[2] / "images" / "omniquant" / "image.toml"


def describe():
    (method,) = ImageDescription.model_validate(tomllib.loads(IMAGE.read_text(encoding="utf-8"))).methods
    return method


def parse(setting, **options):
    method = describe()
    calibration = method.calibration.model_dump()
    return parse_request(
        CompressParameters(method=method.name, setting=Setting.parse(setting), calibration=calibration, options=options)
    )


def test_the_image_lists_the_architectures_that_the_code_knows():
    assert set(describe().architectures) == set(KNOWN_ARCHITECTURES)


def test_the_method_makes_of_every_setting_the_format_that_its_image_says():
    method = describe()
    for setting in (method.default_setting, *method.patterns, "W3A16g96"):
        bits = setting.partition("g")[0]
        assert parse(setting).checkpoint_format is method.produces_for.get(bits, method.produces)


def test_the_image_says_which_format_each_layout_is():
    for layout, expected in describe().layouts.items():
        assert parse("W4A16g128", layout=layout).checkpoint_format is expected
