"""Names in a manifest to what the images offer: methods, backends, settings, calibration."""

from collections.abc import Mapping

from pydantic import ValidationError

from harness.contract import (
    REFERENCE_ENGINE,
    BackendDescription,
    Calibration,
    CheckpointFormat,
    MethodDescription,
    Scalar,
    Setting,
    unknown,
)
from orchestrator.errors import BadManifest
from orchestrator.images.catalog import ImageCatalog
from orchestrator.images.image import Image
from orchestrator.manifest import CalibrationEntry, CompressEntry


def resolve_method(name: str, catalog: ImageCatalog) -> tuple[Image, MethodDescription]:
    """The image that offers a method. Raises BadManifest for an unknown one."""
    if name not in catalog.methods:
        raise BadManifest(unknown("method", name, catalog.methods), hint="`orchestrator images list` has all methods")
    return catalog.methods[name]


def resolve_backend(name: str, catalog: ImageCatalog) -> tuple[Image, BackendDescription]:
    """The image that offers a backend, by its name or short form. Raises BadManifest for an unknown one."""
    full = catalog.full_name(name)
    if full not in catalog.backends:
        raise BadManifest(unknown("backend", full, catalog.backends), hint="`orchestrator images list` has all")
    return catalog.backends[full]


def resolve_engine(name: str, catalog: ImageCatalog) -> tuple[Image, BackendDescription] | None:
    """The image and backend that evaluate as deployed; None for the reference. Raises BadManifest if unknown."""
    full = catalog.full_name(name)
    if full == REFERENCE_ENGINE:
        return None
    known = {REFERENCE_ENGINE, *catalog.backends}
    if full not in known:
        scoring = sorted(one.name for _, one in catalog.backends.values() if one.scores)
        raise BadManifest(
            unknown("engine", full, known),
            hint=f"these evaluate: {', '.join([REFERENCE_ENGINE, *scoring])}",
        )
    return resolve_backend(name, catalog)


def resolve_setting(entry: CompressEntry, method: MethodDescription) -> Setting:
    """The setting of an entry, or its method's default. Raises BadManifest for one that the method cannot do."""
    try:
        setting = Setting.parse(entry.setting or method.default_setting)
    except ValidationError as invalid:
        raise BadManifest(
            invalid.errors()[0]["msg"].removeprefix("Value error, "), hint=f"{method.name} takes: {_takes(method)}"
        ) from invalid
    except ValueError as invalid:
        raise BadManifest(str(invalid), hint=f"{method.name} takes: {_takes(method)}") from invalid
    if not accepts(method, setting):
        raise BadManifest(f"{method.name} has no setting {setting.name!r}", hint=f"it takes: {_takes(method)}")
    return setting


def accepts(method: MethodDescription, setting: Setting) -> bool:
    """Whether the method's description has this setting."""
    if setting.ratio is not None and method.any_ratio:
        return True
    if setting.official_flag is not None:
        return method.official_flag
    return setting.name in method.patterns or (method.any_group and bits_name(setting) in method.patterns)


def bits_name(setting: Setting) -> str:
    """The name of a quantization without its group size."""
    return f"W{setting.weight_bits}A{setting.activation_bits}"


def planned_format(method: MethodDescription, setting: Setting, options: Mapping[str, Scalar]) -> CheckpointFormat:
    """The format of the checkpoint that a method will make; an option that it does not know is its own to refuse."""
    planned = method.produces_for.get(bits_name(setting), method.produces)
    return method.layouts.get(str(options.get("layout")), planned)


def _takes(method: MethodDescription) -> str:
    any_ratio = ["any ratio such as 50%"] if method.any_ratio else []
    flag = ["the authors' own flag such as official-flag:25%"] if method.official_flag else []
    any_group = ["bits with any group size such as W4A16g128"] if method.any_group else []
    return ", ".join([*any_ratio, *flag, *method.patterns, *any_group])


def resolve_calibration(
    method: MethodDescription, common: CalibrationEntry, own: CalibrationEntry
) -> tuple[Calibration | None, str | None]:
    """The method's defaults, overridden by the manifest's common entry, overridden by the method's own entry.

    The method's policy was made for its own data set, so it does not carry over to another. None, and no substitute,
    for a method that looks at weights alone.

    Raises:
        BadManifest: such a method's own entry asks for calibration.
    """
    if method.calibration is None:
        if own != CalibrationEntry():
            raise BadManifest(
                f"{method.name} looks at weights alone, so it has no calibration",
                hint="leave `calibration` out of this entry",
            )
        return None, None
    asked = {**common.model_dump(exclude_none=True), **own.model_dump(exclude_none=True)}
    merged = {**method.calibration.model_dump(), **asked}
    if merged["dataset"] != method.calibration.dataset:
        merged["policy"] = asked.get("policy")
    substitute = merged.pop("substitute", None)
    return Calibration(**merged), substitute
