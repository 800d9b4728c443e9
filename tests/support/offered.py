"""The methods and backends that this project's images say they offer, read from each `image.toml`."""

from harness.contract import BackendDescription, CheckpointFormat, MethodDescription, Setting
from tests.support.every_image import described_images

SMALL_GROUP = 16
"""A group size that divides every input of the tiny models."""
METHODS: dict[str, MethodDescription] = {
    method.name: method for image in described_images().values() for method in image.methods
}
IMAGE_OF: dict[str, str] = {method.name: name for name, image in described_images().items() for method in image.methods}
BACKENDS: dict[str, BackendDescription] = {
    backend.name: backend for image in described_images().values() for backend in image.backends
}


def settings_of(method: MethodDescription) -> list[str]:
    """Every setting that the image lists, and one for each kind that it admits without listing."""
    settings = [method.default_setting, *method.patterns]
    settings += ["12.5%"] if method.any_ratio else []
    settings += ["official-flag:12.5%"] if method.official_flag else []
    settings += [f"{bits}g64" for bits in method.patterns if bits.endswith("A16")] if method.any_group else []
    return list(dict.fromkeys(settings))


def usual_setting(method: MethodDescription) -> str:
    """Its own, with groups that fit the tiny models where it takes any."""
    return small_setting(method.default_setting) if method.any_group else method.default_setting


def small_setting(name: str) -> str:
    """The setting, with groups that fit the tiny models."""
    bits, group, _ = name.partition("g")
    return f"{bits}g{SMALL_GROUP}" if group and Setting.parse(name).group_size else name


def formats_of(method: MethodDescription) -> dict[CheckpointFormat, tuple[str, dict[str, str]]]:
    """For each format that the method makes, the first setting, with groups that fit, and the options that make it."""
    usual = usual_setting(method)
    found: dict[CheckpointFormat, tuple[str, dict[str, str]]] = {}
    for setting in (usual, *method.patterns):
        found.setdefault(method.produces_for.get(setting.partition("g")[0], method.produces), (setting, {}))
    for layout, made in method.layouts.items():
        found.setdefault(made, (usual, {"layout": layout}))
    return found
