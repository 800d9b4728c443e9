"""The versions of the store's documents, and the way from each to the next. A version is never taken out.

What changes a document's form, or the contract's results in it, raises its version here and adds a step.
"""

from collections.abc import Mapping

from harness.contract import digest_of
from orchestrator.store.asked import Asked
from orchestrator.store.versioned import Document, Upgrade, read, upgraded

STAGE_VERSION = 2
RUN_VERSION = 2
MANIFEST_VERSION = 1


def stage_2(document: Document) -> Document:
    """`document` holds `provenance` and `final`. Digests of the artifact and of files were not written down then."""
    artifact = document["final"]["result"].get("artifact")
    provenance = {**document["provenance"], "artifact": digest_of(artifact) if artifact else None, "files": {}}
    return {**document, "provenance": provenance}


def run_2(document: Document) -> Document:
    """What it was resolved to was not written down then, but for the runtime and the device."""
    states = [state["status"] for state in document["stages"].values()]
    has_ended = not document.get("interrupted") and not {"pending", "running", "interrupted"} & set(states)
    facts = {
        "manifest_digest": digest_of(document["manifest"]),
        "runtime": document["runtime"],
        "device_model": document["device_model"],
    }
    kept = {name: value for name, value in document.items() if name not in ("runtime", "device_model")}
    return {**kept, "facts": facts, "ended": document["updated"] if has_ended else None}


STAGE_UPGRADES: Mapping[int, Upgrade] = {1: stage_2}
RUN_UPGRADES: Mapping[int, Upgrade] = {1: run_2}
MANIFEST_UPGRADES: Mapping[int, Upgrade] = {}


def stored_manifest(run: str, document: Document) -> Asked:
    """What scores and reports need of the manifest of a stored run; all else in it is passed over.

    Raises:
        Unreadable: this version does not understand it.
    """

    def make() -> Asked:
        current = upgraded(document, MANIFEST_UPGRADES, MANIFEST_VERSION)
        return Asked.model_validate(current, extra="ignore")

    return read(f"the manifest of runs/{run}", make)
