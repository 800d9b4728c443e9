"""The options of `bench` as a manifest: tasks and sizes of a given one, with one model, method and backend."""

import re
from typing import Any

from pydantic import ValidationError

from orchestrator.errors import BadManifest
from orchestrator.manifest import Manifest
from orchestrator.manifest.sources import MODEL_ALIASES


def bench_manifest(
    base: Manifest, method: str, backend: str, model: str, setting: str, device: str, runtime: str
) -> Manifest:
    """Build it. An empty `model` keeps the model of `base`, an empty `setting` the method's default.

    Raises:
        BadManifest: an option does not fit the manifest's form.
    """
    document: dict[str, Any] = base.model_dump(mode="json", exclude_none=True)
    document |= {
        "name": f"bench-{method}",
        "device": device,
        "runtime": runtime,
        "compress": [{"method": method, **({"setting": setting} if setting else {})}],
    }
    if model:
        document["models"] = [{"name": _model_name(model), "source": model}]
    if "benchmark" in document:
        document["benchmark"] |= {"backends": [backend]}
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
