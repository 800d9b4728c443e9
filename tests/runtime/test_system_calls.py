"""The list of system calls, held against Linux' own and against itself; that it is kept is tried in a container."""

import json
import re
import stat
from pathlib import Path
from typing import Any

import pytest

from harness.contract import Device, DeviceKind
from orchestrator.images.image import Image
from orchestrator.runtime.docker import container_options
from orchestrator.runtime.launch import Launch
from orchestrator.runtime.reach import Reach
from orchestrator.runtime.system_calls import ABSENT, ALLOWED, ON_CONDITION, REFUSED, seccomp_profile

HEADERS = [
    path
    for path in (
        Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        Path("/usr/include/asm/unistd_64.h"),
    )
    if path.is_file()
]
CLOSED = (
    "io_uring_setup",
    "mount",
    "unshare",
    "setns",
    "bpf",
    "keyctl",
    "add_key",
    "userfaultfd",
    "ptrace",
    "kexec_load",
)


def names(groups: dict[str, str]) -> list[str]:
    return [name for group in groups.values() for name in group.split()]


def allowed(name: str, *arguments: int) -> bool:
    """What the profile says of a call, read as engines read it: rules for one name stand beside each other."""
    rules = [rule for rule in json.loads(seccomp_profile())["syscalls"] if name in rule["names"]]
    return any(
        rule["action"] == "SCMP_ACT_ALLOW" and all(_holds(one, arguments) for one in rule.get("args", ()))
        for rule in rules
    )


def _holds(condition: dict[str, Any], arguments: tuple[int, ...]) -> bool:
    given = arguments[condition["index"]]
    if condition["op"] == "SCMP_CMP_EQ":
        return bool(given == condition["value"])
    assert condition["op"] == "SCMP_CMP_MASKED_EQ"
    return bool(given & condition["value"] == condition["valueTwo"])


def test_a_call_is_in_one_list_and_there_once() -> None:
    listed = [*names(ALLOWED), *names(REFUSED), *ON_CONDITION, *ABSENT]
    assert sorted(listed) == sorted(set(listed))


@pytest.mark.skipif(not HEADERS, reason="Linux' headers for x86-64 are not installed (linux-libc-dev)")
def test_every_call_of_linux_is_allowed_or_refused_by_name() -> None:
    of_linux_6_1 = 450  # set_mempolicy_home_node, the last one of Debian 12's kernel
    defined = re.findall(r"^#define __NR_(\w+) (\d+)$", HEADERS[0].read_text("ascii"), re.MULTILINE)
    known = {name for name, number in defined if int(number) <= of_linux_6_1}
    assert known - {*names(ALLOWED), *names(REFUSED), *ON_CONDITION, *ABSENT} == set()


def test_what_is_not_named_is_refused() -> None:
    assert json.loads(seccomp_profile())["defaultAction"] == "SCMP_ACT_ERRNO"
    assert not any(map(allowed, [*CLOSED, *names(REFUSED), *ABSENT, "a_call_of_a_later_linux"]))
    assert all(map(allowed, names(ALLOWED)))


@pytest.mark.parametrize(
    ("call", "is_allowed"),
    [
        (("socket", 1, 1, 0), True),
        (("socket", 10, 1, 0), True),
        (("socket", 40, 1, 0), False),
        (("socket", 40 | 1 << 32, 1, 0), False),
        (("socket", 1 | 1 << 32, 1, 0), False),
        (("clone", 0x01200011), True),  # fork
        (("clone", 0x003D0F00), True),  # a thread
        (("clone", 0x10000011), False),  # CLONE_NEWUSER
        (("personality", 0), True),
        (("personality", 0x0040000), False),
        (("open", 0, 0, stat.S_ISUID), True),  # creates nothing: what would be the mode is chance
        (("open", 0, 0o102, 0o644), True),
        (("open", 0, 0o102, stat.S_ISUID | 0o755), False),
        (("openat", 3, 0, 0o20200002, stat.S_ISGID | 0o755), False),  # O_TMPFILE
        (("openat", 3, 0, 0o200000, stat.S_ISGID), True),  # O_DIRECTORY
        (("chmod", 0, 0o1777), True),
        (("fchmod", 3, 0o2755), False),
        (("fchmodat", 3, 0, 0o4755), False),
        (("mknodat", 3, 0, 0o104755), False),
    ],
)
def test_some_depend_on_what_they_are_called_with(call: tuple[Any, ...], is_allowed: bool) -> None:
    assert allowed(*call) is is_allowed


@pytest.mark.parametrize("reach", Reach)
@pytest.mark.parametrize("kind", DeviceKind)
def test_every_container_gets_it_and_no_right_beside(hostile: Image, reach: Reach, kind: DeviceKind) -> None:
    options = container_options(Launch(hostile, b"", device=Device(kind=kind), reach=reach))

    assert options["security_opt"] == ["no-new-privileges:true", f"seccomp={seccomp_profile()}"]
    assert options["cap_drop"] == ["ALL"]
    assert not {"privileged", "cap_add", "devices", "pid_mode", "ipc_mode", "userns_mode"} & options.keys()
