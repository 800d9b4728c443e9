"""Folders and files that somebody else left are looked at, taken and removed, whatever they are."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.contract import UnsafeTree, digest_tree, list_tree, read_regular
from orchestrator.host import memory
from orchestrator.host.files import give, protect, remove, scratch_folder, size_bytes
from orchestrator.host.hashing import Span, digests
from orchestrator.host.worker_user import NOBODY, worker_user

DEEPER_THAN_A_PATH = 2100
TEBIBYTE = 2**40
is_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make somebody else the owner")


def dig(folder: Path, levels: int) -> None:
    """Folders within each other, whose path no system call takes."""
    inside = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=inside)
        below = os.open("d", os.O_RDONLY, dir_fd=inside)
        os.close(inside)
        inside = below
    os.close(inside)


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "odd")


def socket_file(folder: Path) -> None:
    held, inside = socket.socket(socket.AF_UNIX), os.open(folder, os.O_RDONLY)
    held.bind(f"/proc/self/fd/{inside}/odd")
    held.close()
    os.close(inside)


def link_to_a_file(folder: Path) -> None:
    (folder / "odd").symlink_to("/etc/passwd")


def link_to_a_folder(folder: Path) -> None:
    (folder / "odd").symlink_to("/etc")


def larger_than_the_disk(folder: Path) -> None:
    with (folder / "odd").open("wb") as file:
        file.truncate(8 * TEBIBYTE)


def escape_in_a_name(folder: Path) -> None:
    (folder / "odd\x1b[2J").touch()


def line_in_a_name(folder: Path) -> None:
    (folder / "odd\nline").touch()


def no_text_in_a_name(folder: Path) -> None:
    Path(os.fsdecode(bytes(folder) + b"/odd\xff")).touch()


def turned_name(folder: Path) -> None:
    (folder / "odd\u202eevil").mkdir()


@pytest.mark.parametrize(
    ("leave", "words"),
    [
        (pipe, "odd is not a regular file"),
        (socket_file, "odd is not a regular file"),
        (link_to_a_file, "odd is a symbolic link"),
        (link_to_a_folder, "odd is a symbolic link"),
        (larger_than_the_disk, "odd says that it has 8796093022208 bytes, and the whole disk has"),
        (escape_in_a_name, r"'odd\\u001b[2J' holds the control character U+001B"),
        (line_in_a_name, "the control character U+000A"),
        (no_text_in_a_name, "the control character U+DCFF"),
        (turned_name, "the control character U+202E"),
        (lambda folder: dig(folder, DEEPER_THAN_A_PATH), "more than 32 folders within each other"),
    ],
)
def test_a_tree_that_no_artifact_may_hold_is_refused_by_name_and_can_be_removed(
    tmp_path: Path, leave: Callable[[Path], None], words: str
) -> None:
    folder = tmp_path / "left"
    (folder / "inside").mkdir(parents=True)
    (folder / "plain").write_text("content")
    leave(folder)
    with pytest.raises(UnsafeTree) as refused:
        digest_tree(folder)
    assert words in str(refused.value)
    assert "\x1b" not in str(refused.value)
    assert size_bytes(folder) < TEBIBYTE
    assert remove(folder) < TEBIBYTE
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_itself_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    with pytest.raises(UnsafeTree, match="link is no folder, or a link to one"):
        list(list_tree(tmp_path / "link"))


@pytest.mark.parametrize("target", ["/etc/passwd", "/dev/zero", "/dev/stdin", "plain"])
def test_a_document_is_never_read_through_a_link(tmp_path: Path, target: str) -> None:
    (tmp_path / "plain").write_text("{}")
    (tmp_path / "document").symlink_to(target)
    with pytest.raises(OSError, match="document is a symbolic link"):
        read_regular(tmp_path / "document")


@pytest.mark.parametrize("leave", [pipe, larger_than_the_disk, lambda folder: (folder / "odd").mkdir()])
def test_a_document_is_a_regular_file_of_bounded_size(tmp_path: Path, leave: Callable[[Path], None]) -> None:
    leave(tmp_path)
    with pytest.raises(OSError, match=r"odd (is not a regular file|has 8796093022208 bytes, more than the 67108864)"):
        read_regular(tmp_path / "odd")


def test_hashing_a_sparse_file_ends_when_it_is_told_to(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(TEBIBYTE)
    polls = iter(range(3))

    def poll() -> None:
        if next(polls, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        digests([Span(tmp_path / "large")], poll)


def test_removing_follows_no_link_and_opens_what_is_locked(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kept").write_text("content")
    locked = tmp_path / "left" / "locked"
    locked.mkdir(parents=True)
    (locked / "file").write_text("four")
    (locked / "link").symlink_to(tmp_path / "mine")
    (tmp_path / "left" / "link").symlink_to(tmp_path / "mine")
    locked.chmod(0)
    (tmp_path / "left").chmod(0)
    assert remove(tmp_path / "left") >= 4
    assert (tmp_path / "mine" / "kept").read_text() == "content"


def test_what_is_taken_can_be_read_by_all_and_written_or_run_as_somebody_else_by_nobody(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    program, weights = tmp_path / "deep" / "er" / "sh", tmp_path / "weights"
    for path, mode in ((program, 0o6755), (weights, 0o600)):
        path.write_text("content")
        path.chmod(mode)
    (tmp_path / "deep").chmod(0o2700)
    protect(tmp_path)
    assert [path.stat().st_mode & 0o7777 for path in (program, weights)] == [0o444, 0o444]
    assert [path.stat().st_mode & 0o7777 for path in (tmp_path / "deep", program.parent)] == [0o755, 0o755]


@is_root
def test_root_gives_a_folder_to_nobody_and_takes_it_back(tmp_path: Path) -> None:
    assert worker_user() == NOBODY
    file = tmp_path / "deep" / "file"
    file.parent.mkdir()
    file.touch()
    give(tmp_path, worker_user())
    assert {path.stat().st_uid for path in (tmp_path, file.parent, file)} == {NOBODY[0]}
    protect(tmp_path)
    assert {path.stat().st_uid for path in (tmp_path, file.parent, file)} == {0}


def test_a_scratch_folder_is_gone_afterwards_whatever_is_in_it(tmp_path: Path) -> None:
    with scratch_folder(tmp_path / "scratch") as folder:
        dig(folder, DEEPER_THAN_A_PATH)
        pipe(folder)
    assert not folder.exists()


@pytest.mark.parametrize(("machine_gib", "worker_gib"), [(1, 0.5), (8, 7), (64, 60)])
def test_workers_leave_the_machine_a_sixteenth_of_its_memory_and_a_gibibyte_at_least(
    monkeypatch: pytest.MonkeyPatch, machine_gib: int, worker_gib: float
) -> None:
    monkeypatch.setattr(memory, "machine_bytes", lambda: machine_gib * 2**30)
    assert memory.worker_bytes() == worker_gib * 2**30
