"""`bench`: one method on one model for one backend, as a manifest."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml
from pydantic import ValidationError

from harness.contract import Operation, Scalar
from orchestrator.errors import BadManifest
from orchestrator.host.devices import ChosenDevice, choose_device
from orchestrator.images.catalog import ImageCatalog
from orchestrator.manifest import CompressEntry, Manifest
from orchestrator.manifest.hub import model_config
from orchestrator.manifest.sources import MODEL_ALIASES, parse_model
from orchestrator.plan.architectures import known_architectures, known_input_sizes, stated_architecture
from orchestrator.plan.baselines import baseline_entry
from orchestrator.plan.options import check_options
from orchestrator.plan.resolving import resolve_backend, resolve_method, resolve_setting
from orchestrator.plan.serving import computed_in
from orchestrator.plan.support import Checkpoint
from orchestrator.plan.variants import Asked, Target, served_variant

_GROUP = re.compile(r"W\d+A\d+g\d+")


@dataclass(frozen=True)
class BenchRequest:
    """What was typed. Empty, `model` is that of the sizes' manifest and `setting` the method's default."""

    method: str
    backend: str
    model: str = ""
    setting: str = ""
    device: str = "auto"
    runtime: str = "auto"
    options: dict[str, Scalar] = field(default_factory=dict)

    def manifest(
        self, base: Manifest, catalog: ImageCatalog, elsewhere: ChosenDevice | None = None
    ) -> tuple[Manifest, str | None]:
        """Tasks and sizes of `base` with the variant that the backend serves, and why it is not the method's default.

        `elsewhere` is a device that is planned for and is not here.

        Raises:
            BadManifest: an option does not fit the manifest's form, or the method has no such setting or option.
        """
        image, described = resolve_method(self.method, catalog)
        setting = resolve_setting(CompressEntry(method=self.method, setting=self.setting or None), described)
        check_options(image, "methods", described.name, self.options)
        asked = Asked(image, described, setting, self.options, any_group=not _GROUP.fullmatch(self.setting))
        document = self._document(base, [{"method": self.method}])
        target = self._target(_validated(document), catalog, elsewhere)
        chosen, why = (asked, None) if target is None else _chosen(asked, target)
        baseline = baseline_entry(described, chosen.setting, chosen.options, catalog)
        named = chosen.setting.name if chosen.setting != setting else self.setting or None
        entry = CompressEntry(method=self.method, setting=named, options=dict(chosen.options))
        compress = [entry.model_dump(mode="json", exclude_defaults=True)]
        if baseline is not None:
            compress.append(baseline.model_dump(mode="json", exclude_none=True))
        return _validated(self._document(base, compress)), why

    @property
    def gpu_command(self) -> str:
        """How the same is asked for on a GPU."""
        words = ["make", "bench", f"METHOD={self.method}", f"BACKEND={self.backend}"]
        words += [f"{name}={value}" for name, value in (("MODEL", self.model), ("SETTING", self.setting)) if value]
        if self.options:
            words.append("ARGS=" + " ".join(f"--option {name}={value}" for name, value in self.options.items()))
        return shlex.join([*words, "DEVICE=cuda"])

    def _document(self, base: Manifest, compress: Sequence[dict[str, Any]]) -> dict[str, Any]:
        document: dict[str, Any] = base.model_dump(mode="json", exclude_none=True, exclude={"exclude"})
        document |= {
            "name": f"bench-{self.method}",
            "device": self.device,
            "runtime": self.runtime,
            "compress": list(compress),
        }
        if self.model:
            document["models"] = [{"name": _model_name(self.model), "source": self.model}]
        if "benchmark" in document:
            document["benchmark"] |= {"backends": [self.backend]}
            document["decide"].pop("backend", None)
        return document

    def _target(self, manifest: Manifest, catalog: ImageCatalog, elsewhere: ChosenDevice | None) -> Target | None:
        """None where nothing is timed, or not on this device."""
        if manifest.benchmark is None:
            return None
        model, fetch = manifest.models[0], catalog.only(Operation.FETCH).description
        source = parse_model(model.source)
        architecture = stated_architecture(model, known_architectures(fetch, model_config)(source))
        dense = computed_in(Checkpoint.dense(architecture=architecture, dtype=model.dtype), manifest.benchmark.dtype)
        backend = resolve_backend(self.backend, catalog)[1].name
        device = (elsewhere or choose_device(self.device)).device
        target = Target(backend, catalog, device, dense, known_input_sizes(source, fetch))
        return target if target.runs else None


def read_options(texts: Sequence[str]) -> dict[str, Scalar]:
    """Options as typed, `name=value`, a value as a manifest would have it.

    Raises:
        BadManifest: one is not of that form.
    """
    return dict(_read_option(text) for text in texts)


def _read_option(text: str) -> tuple[str, Scalar]:
    name, equals, written = text.partition("=")
    try:
        value = yaml.safe_load(written)
    except yaml.YAMLError:
        value = None
    if not equals or not re.fullmatch(r"\w+", name) or not isinstance(value, str | bool | int | float):
        raise BadManifest(
            f"--option takes the name and the value of an option, and got {text!r}",
            hint="write it as in --option symmetric=true, once for each option",
        )
    return name, value


def _chosen(asked: Asked, target: Target) -> tuple[Asked, str | None]:
    found = served_variant(asked, target)
    if found is None or found == asked:
        return asked, None
    why = f"{target.backend} does not serve that one: {target.answer(asked).message}"
    return found, f"{asked.method.name}: {found.text} in place of {asked.text}, since {why}"


def _validated(document: dict[str, Any]) -> Manifest:
    try:
        return Manifest.model_validate(document)
    except ValidationError as invalid:
        first = invalid.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadManifest(f"{where}: {first['msg']}", hint="see `orchestrator bench --help`") from invalid


def _model_name(source: str) -> str:
    """A short name: an alias itself, else the last part of the path, repository or package."""
    if source in MODEL_ALIASES:
        return source
    last = re.split(r"[@=]", source.partition(":")[2])[0].rstrip("/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-._").lower()[:80] or "model"
