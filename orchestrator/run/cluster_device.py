"""The one device that a run on a cluster is made for, by what its nodes say of themselves."""

from collections import Counter
from collections.abc import Mapping, Sequence

from harness.contract import Device, DeviceKind
from orchestrator.errors import BadManifest, HostFault
from orchestrator.host.devices import ALL_GPUS, ChosenDevice
from orchestrator.host.gpu_models import names_gpu_model, planned_device
from orchestrator.run.ray_node import NodeFacts

Nodes = Sequence[tuple[NodeFacts, int]]
"""Each with how many of its GPUs the cluster gives away."""


def cluster_device(requested: str, nodes: Nodes) -> ChosenDevice:
    """The device that most of the nodes have, or the one asked for. Its names are places: `GPU-1` is the first of
    whichever node.

    Raises:
        BadManifest: no node has it, or it is one of this host.
        HostFault: there is no node.
    """
    given: Counter[str] = Counter()
    for facts, count in nodes:
        if facts.gpus and count:
            given[facts.gpus[0]] += count
    wanted = _wanted(requested, given)
    return _processor(nodes) if wanted is None else _gpus(wanted, nodes)


def _wanted(requested: str, gpus: Mapping[str, int]) -> str | None:
    """The model of GPU that is asked for, or that most of them are; None: processors."""
    if requested == "cpu" or (requested == "auto" and not gpus):
        return None
    if requested in ("auto", "cuda", ALL_GPUS):
        if not gpus:
            raise BadManifest(
                f"device {requested!r} is asked for, and no node of the cluster has a GPU that Ray gives",
                hint="start nodes with --num-gpus, or use the device 'cpu'",
            )
        return max(gpus, key=lambda model: (gpus[model], model))
    if not names_gpu_model(requested):
        raise BadManifest(
            f"{requested!r} names a GPU of this host, and a cluster has others",
            hint="name a model, such as cuda:H200, or use 'cuda' or 'cpu'",
        )
    planned = planned_device(requested, None)
    assert planned is not None  # noqa: S101  a model is named
    if planned.model not in gpus:
        there = ", ".join(sorted(gpus)) or "none"
        raise BadManifest(f"no node of the cluster has an {planned.model}", hint=f"models that nodes have: {there}")
    return planned.model


def _processor(nodes: Nodes) -> ChosenDevice:
    models = Counter(facts.cpu for facts, _ in nodes)
    if not models:
        raise HostFault("no node of the cluster answers", hint="see `ray status`, and the log of Ray there")
    model = max(models, key=lambda one: (models[one], one))
    threads = next(facts.threads for facts, _ in nodes if facts.cpu == model)
    device = Device(kind=DeviceKind.CPU, threads=threads)
    return ChosenDevice(device, model, f"{models[model]} node(s) of the cluster with {model}")


def _gpus(model: str, nodes: Nodes) -> ChosenDevice:
    having = [(facts, count) for facts, count in nodes if facts.gpus[:1] == (model,)]
    counts = [count for _, count in having]
    sizes = [facts.gpu_memory_bytes for facts, _ in having if facts.gpu_memory_bytes is not None]
    return ChosenDevice(
        Device(kind=DeviceKind.CUDA, uuids=tuple(f"GPU-{place}" for place in range(1, max(counts) + 1))),
        model,
        f"{sum(counts)} x {model} on {len(having)} node(s) of the cluster, each stage on whichever is free",
        min((facts.driver for facts, _ in having if facts.driver is not None), default=None),
        min(sizes) if len(sizes) == len(having) else None,
    )
