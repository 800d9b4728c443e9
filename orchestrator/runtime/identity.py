"""Who a worker process is: the caller, or nobody where the caller is root.

Nobody may not be able to enter what a worker needs, such as an interpreter below /root. Then it keeps one right of
root's, to read (CAP_DAC_READ_SEARCH), and neither to write, nor to signal, nor to become another user. `setpriv`, of
util-linux, sees to all of it.
"""

import os
import shutil
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.host.files import give
from orchestrator.host.worker_user import worker_user

_STATUS = Path("/proc/self/status")
_READ_ALL = "dac_read_search"
_READ_ALL_BIT = 2


@dataclass(frozen=True)
class WorkerIdentity:
    """`prefix` begins a worker's command; empty: it is the caller. `user` is then None, and else its uid and gid.

    `remark` says what is unusual about it, empty where nothing is.
    """

    prefix: tuple[str, ...] = ()
    user: tuple[int, int] | None = None
    remark: str = ""

    def give(self, *folders: Path) -> None:
        """Make folders, created where they are missing, the worker's with all that is in them."""
        for folder in folders:
            folder.mkdir(exist_ok=True)
            if self.user is not None and folder.stat().st_uid != self.user[0]:
                give(folder, self.user)


def find_identity(needed: Iterable[Path]) -> WorkerIdentity:
    """Who can be a worker that has to read these files and folders."""
    if os.geteuid() != 0:
        return WorkerIdentity()
    user = worker_user()
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return WorkerIdentity(remark="workers are root, since setpriv (util-linux) is not installed")
    prefix = (setpriv, f"--reuid={user[0]}", f"--regid={user[1]}", "--clear-groups", "--no-new-privs")
    closed = next((path for path in map(_closed, needed) if path is not None), None)
    if closed is None:
        return WorkerIdentity((*prefix, "--inh-caps=-all", "--"), user)
    why = f"since what they need lies in {closed}, which is closed to user {user[0]}"
    if not _has_read_all():
        return WorkerIdentity(remark=f"workers are root, {why}")
    read = [f"--{kind}-caps=-all,+{_READ_ALL}" for kind in ("inh", "ambient")]
    remark = f"workers are not root, but may read what root may, {why}"
    return WorkerIdentity((*prefix, *read, f"--bounding-set=-all,+{_READ_ALL}", "--"), user, remark)


def _closed(path: Path) -> Path | None:
    """The first folder on the way to a file or folder, or that itself, that is not open to everybody."""
    found = path.resolve()
    for one in (*reversed(found.parents), found):
        try:
            mode = one.stat().st_mode
        except OSError:
            return None  # what is not there is made when it is needed
        wanted = stat.S_IXOTH if one != found else stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(mode) else 0)
        if mode & wanted != wanted:
            return one
    return None


def _has_read_all() -> bool:
    held = [
        int(line.split()[1], 16)
        for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
        if line.startswith(("CapEff:", "CapBnd:"))
    ]
    return bool(held) and all(one >> _READ_ALL_BIT & 1 for one in held)
