"""The nodes of a Ray cluster as hosts of stages. Ray starts processes, gives them GPUs and tells which nodes are there.

Which stage runs where and when is the queue's to say: each job is sent to one node, for as many GPUs as it takes.
"""

import atexit
import importlib.util
import logging
import secrets
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from harness.contract import DeviceKind, Event, Operation, Sha256, harness_digest
from orchestrator.errors import HostFault, Interrupted, RuntimeUnavailable
from orchestrator.host.devices import ChosenDevice
from orchestrator.host.owner import Owner
from orchestrator.run.cluster_device import cluster_device
from orchestrator.run.execution import Finished, Perform
from orchestrator.run.facts import program_version
from orchestrator.run.job import JobEnd, StageJob
from orchestrator.run.ray_node import NodeFacts, facts_here, perform_document
from orchestrator.run.scheduling import HostLost
from orchestrator.run.workshop import Workshop
from orchestrator.stages import Stage
from orchestrator.store import Failure, FailureKind, Store

_PROBE_SECONDS = 300.0
"""For a node to start a process, which imports this program, and to say what it is."""
_PATIENCE_SECONDS = 600.0
"""For a node to come, where none is left."""
_POLL_SECONDS = 0.5
_STOP_SECONDS = 60.0
_MOST_LOSSES = 3
"""Of one stage on nodes that are still there: then the stage is at fault."""
_MOST_STAGES = 1024
_SEEN = "seen-by-nodes-"
"""What a driver puts among the store's locks for nodes to see begins so, and ends with its owner."""


class RayCluster:
    """The nodes that have what a run is made for; see `Hosts`. Those that come later are used, too."""

    most_stages = _MOST_STAGES
    one_timed = True
    seconds_between_looks = 2.0

    def __init__(
        self, ray: Any, store: Path, note: Callable[[str], None], patience_seconds: float = _PATIENCE_SECONDS
    ) -> None:
        self._ray = ray
        self._store = Store(store)
        self._note = note
        self._patience_seconds = patience_seconds
        self._known: dict[str, NodeFacts] = {}
        self._probes: dict[str, Any] = {}
        self._unfit: set[str] = set()
        self._seen = self._store.locks / f"{_SEEN}{secrets.token_hex(4)}@{Owner.current().token}"
        self._losses: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._chosen: ChosenDevice | None = None

    @classmethod
    def connect(cls, address: str, store: Path, note: Callable[[str], None]) -> Self:
        """Join a cluster as a driver. It is left when this process ends.

        Raises:
            RuntimeUnavailable: Ray is not installed, or no cluster answers there.
            StoreError: the store cannot be made.
        """
        if importlib.util.find_spec("ray") is None:
            raise RuntimeUnavailable(
                "Ray is not installed", hint="install the extra: python -m pip install 'llmcbench[ray]'"
            )
        import ray

        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, namespace="llmcbench")
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as failure:
            raise RuntimeUnavailable(
                f"no Ray cluster answers at {address}: {failure}", hint="start one with `ray start --head`, or name it"
            ) from failure
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        Store(store).make()
        _sweep_seen(Store(store).locks)
        cluster = cls(ray, store, note)
        atexit.register(cluster._seen.unlink, missing_ok=True)  # a node may not have answered by then
        return cluster

    def choose(self, requested: str) -> ChosenDevice:
        """The device that a run on this cluster is made for: that which most of its nodes have, or the one asked for.

        Raises as `cluster_device`.
        """
        self._look(wait_seconds=_PROBE_SECONDS)
        self._chosen = cluster_device(requested, [(facts, self._gpus_of(node)) for node, facts in self._known.items()])
        return self._chosen

    def there(self, stages: Sequence[Stage]) -> Mapping[str, Collection[str]]:
        """See `Hosts`."""
        begin, is_told = time.monotonic(), False
        while True:
            self._look()
            if found := {node: self._places(node) for node in self._fitting()}:
                return found
            if not is_told:
                self._note(f"waits for a node that has {self._device.model}: none is there")
                is_told = True
            if time.monotonic() - begin > self._patience_seconds:
                raise HostFault(
                    f"no node of the cluster is left that has {self._device.model}",
                    hint="start one and run the same command again, which goes on",
                )
            time.sleep(_POLL_SECONDS)

    def is_idle(self, host: str, device: str) -> bool:
        """See `Hosts`. What others do there is Ray's to know."""
        return True

    def perform(self, host: str) -> Perform:
        """See `Hosts`."""

        def performed(
            stage: Stage,
            inputs: dict[str, Sha256],
            workshop: Workshop,
            on_start: Callable[[Sha256], None],
            on_event: Callable[[Event], None],
        ) -> Finished | None:
            job = StageJob.of(stage, inputs, workshop)
            on_start(job.key)
            sent = self._send(perform_document, host, job.model_dump_json(), stage.gpus)
            end = self._end_of(sent, host, stage, workshop)
            for said in end.notes:
                workshop.note(f"{self._name(host)}: {said}")
            workshop.verifier.add(end.damages)
            return end.finished()

        return performed

    def _end_of(self, reference: Any, host: str, stage: Stage, workshop: Workshop) -> JobEnd:
        """Wait for a job. Raises `HostLost` where it went with its process or node."""
        errors = self._ray.exceptions
        while not self._ray.wait([reference], timeout=_POLL_SECONDS)[0]:
            if workshop.cancel.is_set():
                with suppress(errors.RayError, ValueError):
                    self._ray.cancel(reference)
                    self._ray.wait([reference], timeout=_STOP_SECONDS)
                raise Interrupted("stopped while a node was at work")
        try:
            return JobEnd.model_validate_json(self._ray.get(reference))
        except errors.RayTaskError as failure:
            return _failed(
                f"{self._name(host)} could not perform it: {_last_line(failure)}", "see the log of Ray there"
            )
        except errors.OutOfMemoryError:
            hint = "give it more memory, or use a smaller batch, sequence length or model"
            message = f"{self._name(host)} ran out of memory, and Ray ended what ran the stage"
            return JobEnd(failure=Failure(kind=FailureKind.OUT_OF_MEMORY, message=message, hint=hint))
        except errors.RayError as loss:
            return self._lost(host, stage, loss)

    def _lost(self, host: str, stage: Stage, loss: Exception) -> JobEnd:
        name = self._name(host)
        with self._lock:
            self._known.pop(host, None)  # until it has answered again
            if host in self._alive():
                self._losses[stage.id] += 1
            losses = self._losses[stage.id]
        if losses >= _MOST_LOSSES:
            return _failed(
                f"the process that ran it ended {losses} times without a word, the last time on {name}",
                "see the log of Ray there",
            )
        self._note(f"{stage.id}: lost on {name} ({type(loss).__name__}), and done again")
        raise HostLost(name)

    def _look(self, wait_seconds: float = 0.0) -> None:
        """Ask nodes that are new, and forget those that are gone. Waits for as long at most until all have answered."""
        with self._lock:
            alive = self._alive()
            for node in [one for one in self._known if one not in alive]:
                self._note(f"{self._name(node)} is lost")
                del self._known[node]
            self._probes = {node: probe for node, probe in self._probes.items() if node in alive}
            settled = self._known.keys() | self._probes.keys() | self._unfit
            if new := [node for node in alive if node not in settled]:
                self._ask(new)
            if self._probes and wait_seconds:
                references = list(self._probes.values())
                self._ray.wait(references, num_returns=len(references), timeout=wait_seconds)
            self._hear()

    def _ask(self, nodes: Sequence[str]) -> None:
        self._seen.touch()
        for node in nodes:
            self._probes[node] = self._send(facts_here, node, str(self._seen), 0)

    def _hear(self) -> None:
        for node, reference in list(self._probes.items()):
            if not self._ray.wait([reference], timeout=0)[0]:
                continue
            del self._probes[node]
            try:
                facts = NodeFacts.model_validate_json(self._ray.get(reference))
            except self._ray.exceptions.RayTaskError as failure:
                self._refuse(node, f"it cannot run this program: {_last_line(failure)}")
            except self._ray.exceptions.RayError:
                continue  # gone, or asked once more
            else:
                self._take(node, facts)
        if not self._probes:
            self._seen.unlink(missing_ok=True)

    def _take(self, node: str, facts: NodeFacts) -> None:
        if facts.harness != harness_digest() or facts.version != program_version():
            self._refuse(node, f"{facts.name} has another version of this program ({facts.version})")
        elif not facts.sees_store:
            self._refuse(node, f"{facts.name} does not see the store at {self._store.root}")
        elif len(set(facts.gpus)) > 1:
            self._refuse(node, f"{facts.name} has GPUs of several models: {', '.join(sorted(set(facts.gpus)))}")
        else:
            self._known[node] = facts
            if facts.niceness > 0:
                self._note(
                    f"{self._name(node)} runs stages at niceness {facts.niceness}, which other work there slows: "
                    "start it with RAY_worker_niceness=0"
                )

    def _refuse(self, node: str, why: str) -> None:
        self._unfit.add(node)
        self._note(f"a node is not used: {why}")

    def _alive(self) -> dict[str, Mapping[str, float]]:
        """The nodes that are there and have something to give, with their resources."""
        nodes = {one["NodeID"]: one["Resources"] for one in self._ray.nodes() if one["Alive"]}
        return {node: has for node, has in nodes.items() if has.get("CPU") or has.get("GPU")}

    def _send(self, function: Callable[[str], str], node: str, document: str, gpus: int) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = NodeAffinitySchedulingStrategy(node, soft=False)
        remote = self._ray.remote(function)
        options = remote.options(num_cpus=0, num_gpus=gpus, max_retries=0, scheduling_strategy=there)
        return options.remote(document)

    def _fitting(self) -> list[str]:
        """The nodes of the device that was chosen."""
        if self._device.device.kind is DeviceKind.CPU:
            return [node for node, facts in self._known.items() if facts.cpu == self._device.model]
        return [
            node
            for node, facts in self._known.items()
            if facts.gpus[:1] == (self._device.model,) and self._gpus_of(node)
        ]

    def _places(self, node: str) -> tuple[str, ...]:
        device = self._device.device
        places = device.uuids[: self._gpus_of(node)] if device.uuids else (device.kind.value,)
        return (*places, Operation.FETCH.value)

    def _gpus_of(self, node: str) -> int:
        """How many Ray gives away there, of those that the driver reports."""
        return min(int(self._alive().get(node, {}).get("GPU", 0)), len(self._known[node].gpus))

    @property
    def _device(self) -> ChosenDevice:
        assert self._chosen is not None  # noqa: S101  `choose` comes first
        return self._chosen

    def _name(self, node: str) -> str:
        facts = self._known.get(node)
        return f"node {node[:8]}" if facts is None else f"node {node[:8]} ({facts.name})"


def _sweep_seen(locks: Path) -> None:
    """Remove what drivers that were killed had put there for nodes to see."""
    for path in locks.glob(f"{_SEEN}*"):
        with suppress(ValueError):
            if Owner.parse(path.name.rpartition("@")[2]).is_dead():
                path.unlink(missing_ok=True)


def _failed(message: str, hint: str) -> JobEnd:
    return JobEnd(failure=Failure(kind=FailureKind.INFRASTRUCTURE, message=message, hint=hint))


def _last_line(failure: Exception) -> str:
    return str(failure).strip().splitlines()[-1]
