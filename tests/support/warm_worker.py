"""Takes the place of the harness in `python -m harness.warm`, which imports this module like any other.

A worker then does what its stdin says, and prints as JSON what it found of its own state before.
"""

import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path

import __main__

COMMON = []


def answer() -> int:
    asked = sys.stdin.read()
    found = {
        "pid": os.getpid(),
        "group": os.getpgrp(),
        "variables": dict(os.environ),
        "folder": str(Path.cwd()),
        "temporary": tempfile.gettempdir(),
        "umask": os.umask(0o077),
        "path": sys.path[:],
        "argv": sys.argv[1:],
        "modules": sorted(sys.modules),
        "common": COMMON[:],
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
    }
    os.umask(found["umask"])
    if asked == "spoil":
        os.environ["SPOILT"] = "1"
        os.umask(0)
        os.chdir("/")
        random.seed(0)
        sys.path.insert(0, "/spoilt")
        COMMON.append("spoilt")
        sys.modules["spoilt"] = sys.modules[__name__]
        tempfile.tempdir = "/"
    if asked == "leave" and os.fork() == 0:
        os.setsid()
        time.sleep(600)
    found["drawn"] = random.random()
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()
    if asked == "hang":
        time.sleep(600)
    return 5 if asked == "fail" else 0


__main__.serve_one = answer
