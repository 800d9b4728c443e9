"""A lock that somebody holds is seen by who only looks, and is not disturbed by it."""

from pathlib import Path

import pytest

from orchestrator.host import locks


def test_a_lock_is_seen_as_long_as_it_is_held(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not locks.is_held(path)
    assert not path.exists()
    with locks.hold(path):
        assert locks.is_held(path)
        assert locks.is_held(path, alone=True)
    assert path.exists()
    assert not locks.is_held(path)


def test_who_shares_a_lock_does_not_hold_it_alone(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locks.hold(path, shared=True):
        assert locks.is_held(path)
        assert not locks.is_held(path, alone=True)
        assert not locks.is_held(tmp_path / "other")


def test_without_a_table_nobody_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_TABLE", tmp_path / "none")
    with locks.hold(tmp_path / "lock"):
        assert not locks.is_held(tmp_path / "lock")
