"""Who workers are: never root, since what they run is not this project's alone."""

import os

NOBODY = (65534, 65534)
"""The user and the group that own nothing, on every Linux."""


def worker_user() -> tuple[int, int]:
    """The user and the group (uid, gid) that workers have: the caller's, or nobody's where the caller is root."""
    return NOBODY if os.geteuid() == 0 else (os.getuid(), os.getgid())
