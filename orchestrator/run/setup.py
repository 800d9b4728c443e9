"""Everything that is chosen before a run: device, runtime, images, plan. Each choice comes with its reason."""

from collections.abc import Collection
from pathlib import Path

from harness.contract import FetchParameters, HubModel, unknown
from orchestrator.errors import BadManifest
from orchestrator.host.devices import ChosenDevice, choose_device
from orchestrator.images.catalog import ImageCatalog
from orchestrator.manifest import Manifest
from orchestrator.manifest.data_sources import NO_DATA_FOLDER, data_folder
from orchestrator.manifest.hub import HubUnavailable, NotOnHub, find_dataset, model_config, weights_bytes
from orchestrator.plan import build_plan
from orchestrator.plan.choices import check_choices, check_engine
from orchestrator.plan.data import data_sources
from orchestrator.plan.requirements import check_device
from orchestrator.plan.stand_ins import with_stand_ins
from orchestrator.run.run import Setup
from orchestrator.run.sizes import stated_bytes
from orchestrator.runtime.choose import choose_runtime
from orchestrator.runtime.docker import DockerRuntime
from orchestrator.runtime.process import ProcessRuntime
from orchestrator.stages import Plan
from orchestrator.store import Store


def named_runtime(name: str, root: Path, *, warm: bool = False) -> tuple[DockerRuntime | ProcessRuntime, str]:
    """The runtime that a user names, or the one that `auto` finds, and why. `warm` is as in `ProcessRuntime`.

    Raises:
        BadManifest: there is no such runtime.
        RuntimeUnavailable: Docker was asked for by name and no engine answers.
    """
    if name not in ("auto", "docker", "process"):
        raise BadManifest(unknown("runtime", name, ("auto", "docker", "process")), hint="see docs/manifests.md")
    return choose_runtime(name, root, warm=warm)


def prepare_setup(
    manifest: Manifest,
    store: Path,
    catalog: ImageCatalog,
    planned: ChosenDevice | None = None,
    *,
    runs_here: bool = False,
    warm: bool = False,
) -> Setup:
    """Choose and plan; nothing is built or run yet. A `planned` device need not be there: unless the plan's stages run
    from here all the same, the hub is taken to show us all data sets, and the runtime is the one of that machine.
    `warm` is as in `ProcessRuntime`.

    Raises:
        OrchestratorError: a name is unknown, a device or engine is not there, the driver is too old for an image, or
            the store cannot be used.
    """
    check_engine(manifest, catalog)
    device = planned or choose_device(manifest.device)
    data, is_imagined = data_folder(), planned is not None and not runs_here
    sources = data_sources(catalog, None if is_imagined else find_dataset)
    manifest, stand_ins = with_stand_ins(manifest, catalog, data, sources)
    check_choices(manifest.scoring, {name: task for name, (_, task) in catalog.tasks.items()})
    plan = build_plan(manifest, catalog, device.device, data, model_config, sources)
    check_device(plan, catalog, device)
    opened = Store(store)
    runtime, reason = named_runtime("process" if is_imagined else manifest.runtime, opened.root, warm=warm)
    usual = f"data: the usual sets, from {data}" if data else f"data: the usual sets, from {NO_DATA_FOLDER}"
    return Setup(
        manifest=manifest,
        plan=plan,
        catalog=catalog,
        store=opened,
        runtime=runtime,
        device=device,
        decisions=(
            stand_ins or usual,
            f"device: {device.reason}",
            "runtime: that machine's" if is_imagined else f"runtime: {runtime.name.value}: {reason}",
            *plan.decisions,
        ),
        data=data,
        hub_bytes=hub_bytes(plan, stated_bytes(manifest)),
    )


def hub_bytes(plan: Plan, stated: Collection[str]) -> dict[str, int]:
    """The size of the models of the hub, by name, that the manifest does not state; what the hub does not say, is left
    out, and all of them where it does not answer."""
    found = {}
    for stage in plan.stages:
        source = stage.parameters.source if isinstance(stage.parameters, FetchParameters) else None
        if not isinstance(source, HubModel) or stage.subject is None or stage.subject.model in stated:
            continue
        try:
            size = weights_bytes(source.repository, source.revision)
        except HubUnavailable:
            break
        except NotOnHub:
            continue
        if size is not None:
            found[stage.subject.model] = size
    return found
