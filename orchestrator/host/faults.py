"""What the machine under the store did to a run, in one sentence: a disk that is full, or read-only, or gone."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.errors import DiskFull, HostFault

_AGAIN = "then run the same command again to go on"
_FULL = f"free space with `orchestrator clean`, or move the store to a larger disk, {_AGAIN}"
_READ_ONLY = f"make it writable, {_AGAIN}"
_BROKEN = f"look for the disk in the kernel's log; `orchestrator store verify` says what is damaged; {_AGAIN}"
_GONE = f"put it back, or name another with --store, {_AGAIN}"
_APART = f"put the whole store on one disk, without links or mounts within, {_AGAIN}"
_FAULTS = {
    errno.ENOSPC: ("no space is left", _FULL),
    errno.EDQUOT: ("the quota is used up", _FULL),
    errno.EFBIG: ("a file may not grow further", _FULL),
    errno.EROFS: ("a disk is read-only", _READ_ONLY),
    errno.EIO: ("a disk does not answer", _BROKEN),
    errno.ENODEV: ("a disk is gone", _BROKEN),
    errno.ENXIO: ("a disk is gone", _BROKEN),
    errno.ESTALE: ("a disk is gone", _BROKEN),
    errno.ENOTCONN: ("a disk is gone", _BROKEN),
    errno.EXDEV: ("the store lies on several disks", _APART),
    errno.ENFILE: ("too many files are open", f"raise `ulimit -n`, {_AGAIN}"),
    errno.EMFILE: ("too many files are open", f"raise `ulimit -n`, {_AGAIN}"),
}


def ends_a_run(failure: OSError) -> bool:
    """Whether what comes after would fail in the same way."""
    return failure.errno in _FAULTS


def host_fault(failure: OSError) -> HostFault:
    """What failed, as one sentence that says what to do."""
    what, hint = _FAULTS.get(failure.errno or 0, ("a file or folder cannot be used", f"make it usable, {_AGAIN}"))
    kind = DiskFull if failure.errno == errno.ENOSPC else HostFault  # of a quota nobody can see what is left
    return kind(f"{what}: {failure}", hint=hint)


def full_disk(what: str) -> DiskFull:
    return DiskFull(f"no space is left: {what}", hint=_FULL)


def gone(what: str) -> HostFault:
    return HostFault(what, hint=_GONE)


@contextmanager
def explained() -> Iterator[None]:
    """Say of every OSError within what it means.

    Raises:
        HostFault: there was one.
    """
    try:
        yield
    except OSError as failure:
        raise host_fault(failure) from failure
