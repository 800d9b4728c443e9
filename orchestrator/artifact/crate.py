"""RO-Crate metadata by the Workflow Run Crate profile: the manifest is the workflow, the run its action."""

import json
from importlib.util import find_spec

from orchestrator.artifact.contents import (
    CLAIMS_FOLDER,
    CONTENTS_NAME,
    ENVIRONMENT_NAME,
    IMAGES_FOLDER,
    MANIFEST_NAME,
    README_NAME,
    SCORES_NAME,
    SOURCE_FOLDER,
    STORE_FOLDER,
    VERDICTS_FOLDER,
    Contents,
)
from orchestrator.store import RunRecord

INSTALL = "pip install 'llmcbench[artifact]'"
_VERSION = "1.1"
_PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": ("Process Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/workflow/0.5": ("Workflow Run Crate", "0.5"),
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": ("Workflow RO-Crate", "1.0"),
}
_LICENCE = "https://spdx.org/licenses/Apache-2.0"
_PARTS = {
    README_NAME: ("Read this first", "text/markdown"),
    CONTENTS_NAME: ("What the artifact holds and lacks, and its tolerances", "application/json"),
    ENVIRONMENT_NAME: ("Libraries and devices, by image", "application/json"),
    SCORES_NAME: ("Scores and values with their intervals", "application/json"),
}
_FOLDERS = {
    STORE_FOLDER: "Run record, requests, results and outcomes of items",
    IMAGES_FOLDER: "Descriptions, locks and Dockerfiles of the images",
    SOURCE_FOLDER: "Source of what measured",
    CLAIMS_FOLDER: "Claims that were stated beforehand",
    VERDICTS_FOLDER: "Whether they hold of this run",
}
_RESULTS = (SCORES_NAME, f"{STORE_FOLDER}/", f"{VERDICTS_FOLDER}/")


def can_describe() -> bool:
    """Whether the library is installed; it comes with an extra."""
    return find_spec("rocrate") is not None


def crate_metadata(record: RunRecord, contents: Contents) -> bytes:
    """`ro-crate-metadata.json`, from the run alone: the same run gives the same bytes."""
    from rocrate.model import ComputationalWorkflow, ComputerLanguage, ContextEntity, Dataset, File, SoftwareApplication
    from rocrate.rocrate import ROCrate

    crate = ROCrate(version=_VERSION)
    ended = (record.ended or record.updated).isoformat()
    root = crate.root_dataset
    crate.name = f"LLMCBench run {record.run}"
    crate.description = f"A run of the manifest {record.manifest_document.get('name')} on {record.device_model}"
    crate.datePublished = ended
    crate.license = crate.add(ContextEntity(crate, _LICENCE, {"@type": "CreativeWork", "name": "Apache License 2.0"}))
    for address, (name, version) in _PROFILES.items():
        profile = {"@type": "CreativeWork", "name": name, "version": version}
        root.append_to("conformsTo", crate.add(ContextEntity(crate, address, profile)))
    program = {"name": "LLMCBench", "version": contents.program, "softwareVersion": contents.program}
    engine = crate.add(SoftwareApplication(crate, "#llmcbench", program))
    language = {"name": "LLMCBench manifest", "version": contents.program, "alternateName": "manifest"}
    written_in = crate.add(ComputerLanguage(crate, "#manifest", language))
    workflow = crate.add(
        ComputationalWorkflow(crate, dest_path=MANIFEST_NAME, properties={"name": f"Manifest of {record.run}"})
    )
    workflow["programmingLanguage"] = written_in
    workflow["encodingFormat"] = "application/json"
    workflow["runtimePlatform"] = engine
    crate.mainEntity = workflow
    for name, (what, form) in _PARTS.items():
        crate.add(File(crate, dest_path=name, properties={"name": what, "encodingFormat": form}))
    for name, what in _FOLDERS.items():
        crate.add(Dataset(crate, dest_path=f"{name}/", properties={"name": what}))
    action = {
        "@type": "CreateAction",
        "name": f"Run {record.run}",
        "startTime": record.created.isoformat(),
        "endTime": ended,
        "actionStatus": {"@id": "http://schema.org/CompletedActionStatus"},
        "instrument": {"@id": MANIFEST_NAME},
        "result": [{"@id": name} for name in _RESULTS],
    }
    root["mentions"] = crate.add(ContextEntity(crate, "#run", action))
    document = crate.metadata.generate()
    return json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True).encode()
