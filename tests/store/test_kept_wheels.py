"""A store keeps the wheels that fetches brought: none but those that are named, whole, and each once."""

import hashlib
import os
import stat
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness.contract import WHEELS_NAME, Wheel
from orchestrator.errors import Interrupted
from orchestrator.store import Store
from orchestrator.store.cleaning import clean

CONTENT = b"a wheel"


def wheel_of(content: bytes) -> Wheel:
    return Wheel(package="some", version="1.0", sha256=hashlib.sha256(content).hexdigest())


WHEEL, OTHER = wheel_of(CONTENT), wheel_of(b"another")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    made.make()
    return made


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """What a worker left that brought a wheel."""
    folder = tmp_path / "out"
    (folder / WHEELS_NAME).mkdir(parents=True)
    (folder / WHEELS_NAME / WHEEL.sha256).write_bytes(CONTENT)
    return folder


def handed(store: Store, *wheels: Wheel) -> dict[str, Path]:
    with store.wheels.handing_out(wheels, threading.Event()) as found:
        return found


def kept(store: Store) -> set[str]:
    return {path.name for path in store.wheels.folder.iterdir()}


def test_what_one_brought_is_handed_to_the_next_and_to_nobody_who_wants_another(store: Store, output: Path) -> None:
    assert handed(store, WHEEL) == {}
    (output / WHEELS_NAME / WHEEL.sha256).chmod(0o600)
    store.wheels.take(output, [WHEEL])
    found = handed(store, WHEEL, OTHER)
    assert {name: path.read_bytes() for name, path in found.items()} == {WHEEL.input_name: CONTENT}
    assert stat.S_IMODE(found[WHEEL.input_name].stat().st_mode) == 0o444
    assert handed(store, OTHER) == {}


def swap_for(content: bytes) -> Callable[[Path], None]:
    def swap(path: Path) -> None:
        path.write_bytes(content)

    return swap


def link(path: Path) -> None:
    path.rename(path.with_name("real"))
    path.symlink_to("real")


def link_the_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("real"))
    path.parent.symlink_to("real")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("leave", [swap_for(b"a whee"), swap_for(b""), link, link_the_folder, pipe, folder])
def test_what_is_not_the_wheel_to_the_last_byte_is_not_kept(
    store: Store, output: Path, leave: Callable[[Path], None]
) -> None:
    leave(output / WHEELS_NAME / WHEEL.sha256)
    store.wheels.take(output, [WHEEL])
    assert kept(store) == set()


def test_a_wheel_that_nobody_asked_for_is_not_kept(store: Store, output: Path) -> None:
    store.wheels.take(output, [OTHER])
    store.wheels.take(output, [])
    assert kept(store) == set()


@pytest.mark.parametrize("spoil", [swap_for(b"damaged"), pipe, folder])
def test_what_was_damaged_in_the_store_is_replaced_by_what_is_brought_next(
    store: Store, output: Path, spoil: Callable[[Path], None]
) -> None:
    place = store.wheels.folder / WHEEL.sha256
    place.write_bytes(b"")
    spoil(place)
    store.wheels.take(output, [WHEEL])
    assert handed(store, WHEEL)[WHEEL.input_name].read_bytes() == CONTENT


def test_of_several_at_once_one_brings_it_and_the_others_wait_for_that(store: Store, tmp_path: Path) -> None:
    brought: list[int] = []
    everybody = threading.Barrier(4)

    def fetch(number: int) -> None:
        mine = Store(store.root)
        everybody.wait()
        with mine.wheels.handing_out([WHEEL, OTHER], threading.Event()) as found:
            output = tmp_path / f"out-{number}"
            (output / WHEELS_NAME).mkdir(parents=True)
            for wheel, content in ((WHEEL, CONTENT), (OTHER, b"another")):
                if wheel.input_name not in found:
                    brought.append(number)
                    (output / WHEELS_NAME / wheel.sha256).write_bytes(content)
            mine.wheels.take(output, [WHEEL, OTHER])

    threads = [threading.Thread(target=fetch, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(brought) == 2
    assert kept(store) == {WHEEL.sha256, OTHER.sha256}


def test_one_who_ends_without_it_lets_the_next_try(store: Store) -> None:
    with store.wheels.handing_out([WHEEL], threading.Event()) as first:
        assert first == {}
    assert handed(store, WHEEL) == {}


def test_who_waits_for_it_can_be_stopped(store: Store) -> None:
    cancel = threading.Event()
    cancel.set()
    with ExitStack() as held:
        held.enter_context(store.wheels.handing_out([WHEEL], threading.Event()))
        with pytest.raises(Interrupted), Store(store.root).wheels.handing_out([WHEEL], cancel):
            pass


def test_cleaning_frees_them(store: Store, output: Path) -> None:
    store.wheels.take(output, [WHEEL])
    assert f"wheels/{WHEEL.sha256}" in [one.what for one in clean(store).removed]
    assert kept(store) == set()
