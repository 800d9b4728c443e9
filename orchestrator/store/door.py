"""The door between what a worker left and the store: what its result speaks of is taken, and the rest is removed.

Taken means: regular files in folders, this user's from then on, with permissions of this program's choice. Everything
else about them, sizes, digests and what they hold, is looked at afterwards.
"""

from pathlib import Path

from harness.contract import (
    ARTIFACT_NAME,
    RESULT_NAME,
    EvaluateResult,
    FidelityResult,
    ResultEvent,
    UnsafeTree,
    list_tree,
)
from orchestrator.host.faults import ends_a_run
from orchestrator.host.files import KEPT, KEPT_FOLDER, owned, protect, remove
from orchestrator.store.described import BadArtifact
from orchestrator.store.records import described


def take(output: Path, final: ResultEvent) -> None:
    """Make what a result speaks of this user's: `result.json`, outcomes, and its artifact, if it comes with one.

    Raises:
        BadArtifact: the artifact is no folder of files and folders.
        OSError: something cannot be taken or removed.
    """
    wanted = {RESULT_NAME, *outcomes_names(final)}
    owned(output, KEPT_FOLDER)
    for path in output.iterdir():
        if path.name in wanted:
            owned(path, KEPT)
        elif path.name != ARTIFACT_NAME or described(final) is None:
            remove(path)
        else:
            try:
                protect(path)
            except (UnsafeTree, OSError) as unsafe:
                if isinstance(unsafe, OSError) and ends_a_run(unsafe):
                    raise
                raise BadArtifact(f"the artifact cannot be read: {unsafe}") from unsafe


def outcomes_names(final: ResultEvent) -> tuple[str, ...]:
    """The file of the outcomes of items, by its name in the worker's output."""
    return (Path(final.result.items_file).name,) if isinstance(final.result, EvaluateResult | FidelityResult) else ()


def is_usual(folder: Path) -> bool:
    """Whether there is a folder that holds files and folders alone."""
    try:
        return folder.is_dir() and all(True for _ in list_tree(folder))
    except (UnsafeTree, OSError):
        return False
