"""Tries what an image may not, one thing after the other, and tells what it got: run inside of the hostile worker.

Standard library only. Nothing here leaves the machine: what is called are addresses of the container itself.
"""

import ctypes
import json
import mmap
import os
import platform
import signal
import socket
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from errno import errorcode
from pathlib import Path

REFUSED_BY_A_SIGNAL = "killed"
_C = ctypes.CDLL(None, use_errno=True)
_C.syscall.restype = ctypes.c_long
_X86 = platform.machine() == "x86_64"
NUMBERS = {  # of the calls for which there is no function in Python; x86-64, and 64-bit Arm
    "add_key": (248, 217),
    "bpf": (321, 280),
    "clone": (56, 220),
    "clone3": (435, 435),
    "io_uring_setup": (425, 425),
    "keyctl": (250, 219),
    "name_to_handle_at": (303, 264),
    "openat2": (437, 437),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "process_vm_readv": (310, 270),
    "ptrace": (101, 117),
    "socket": (41, 198),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
_NEW_USER, _NO_RANDOMISATION, _ANY_BITS_ABOVE = 0x10000000, 0x0040000, 1 << 32
_AF_ALG, _AF_VSOCK = 38, 40
_X32_BIT = 0x40000000


def survey(asked: dict[str, list[str]], inputs: Iterable[str], output: str) -> dict[str, object]:
    """`asked`: `paths` of the host, and `addresses` (`host:port`, or `@name` of an abstract socket), to be tried."""
    return {
        "status": dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines()),
        "environment": dict(os.environ),
        "interfaces": [name for _, name in socket.if_nameindex()],
        "reached": [address for address in asked["addresses"] if _reaches(address)],
        "seen": [path for path in asked["paths"] if Path(path).exists()],
        "processes": [
            path.name for path in Path("/proc").iterdir() if path.name.isdigit() and int(path.name) not in _own()
        ],
        "devices": sorted(path.name for path in Path("/dev").iterdir()),
        "written": [place for place in _PLACES if _writes(place)],
        "input_changes": [f"{path}: {how.__name__}" for path in inputs for how in _CHANGES if _done(how, path)],
        "set_user_files": _set_user_files(output),
        "no_set_user_on": [
            place
            for place in ("/tmp", "/dev/shm")
            if os.statvfs(place).f_flag & os.ST_NOSUID  # type: ignore[attr-defined]
        ],
        "scratch_bytes": {place: _capacity(place) for place in ("/tmp", "/dev/shm")},
        "calls": {name: _in_a_child(call) for name, call in _CALLS.items()},
    }


_PLACES = (
    "/forbidden",
    "/usr/bin/forbidden",
    "/opt/llmcbench/worker.py",
    "/opt/venv/bin/python",
    "/etc/passwd",
    "/run/forbidden",
    "/var/tmp/forbidden",
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sysrq-trigger",
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/pids.max",
    "/dev/mem",
    "/dev/kmsg",
)


def _own() -> set[int]:
    return {1, os.getpid()}  # the container's init and this


def _reaches(address: str) -> bool:
    named = address.startswith("@")
    host, _, port = address.rpartition(":")
    with socket.socket(socket.AF_UNIX if named else socket.AF_INET) as one:
        one.settimeout(1)
        try:
            one.connect("\0" + address[1:] if named else (host, int(port)))  # type: ignore[arg-type]
        except OSError:
            return False
    return True


def _writes(place: str) -> bool:
    try:
        with open(place, "ab") as file:  # noqa: PTH123
            file.write(b"")
    except OSError:
        return False
    return True


def _rewrite(path: str) -> None:
    next(Path(path).iterdir()).write_text("changed")


def _add(path: str) -> None:
    Path(path, "added").touch()


def _unlink(path: str) -> None:
    next(Path(path).iterdir()).unlink()


def _open_to_all(path: str) -> None:
    next(Path(path).iterdir()).chmod(0o777)


def _set_times(path: str) -> None:
    os.utime(next(Path(path).iterdir()), (0, 0))


def _reopen_for_writing(path: str) -> None:
    with next(Path(path).iterdir()).open("rb") as file:
        os.close(os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDWR))


def _link_out(path: str) -> None:
    os.link(next(Path(path).iterdir()), "/out/linked")


_CHANGES = (_rewrite, _add, _unlink, _open_to_all, _set_times, _reopen_for_writing, _link_out)


def _done(how: Callable[[str], None], path: str) -> bool:
    try:
        how(path)
    except OSError:
        return False
    return True


def _set_user_files(output: str) -> list[str]:
    """The ways by which a file of the output came to run as its owner, or as its group."""
    creating = os.O_CREAT | os.O_WRONLY
    ways: dict[str, Callable[[str], object]] = {
        "chmod": lambda path: (Path(path).touch(), Path(path).chmod(0o4755)),
        "chmod of the group": lambda path: (Path(path).touch(), Path(path).chmod(0o2755)),
        "fchmod": lambda path: os.fchmod(os.open(path, creating), 0o4755),
        "open": lambda path: os.open(path, creating, 0o4755),
        "mknod": lambda path: os.mknod(path, 0o104755),
        "openat2": lambda path: _call("openat2", -100, path.encode(), struct.pack("QQQ", creating, 0o4755, 0), 24),
    }
    found = []
    os.umask(0)
    for name, way in ways.items():
        path = Path(output, f"set-user-{name}")
        with suppress(OSError):
            way(str(path))
        if path.exists() and path.stat().st_mode & 0o6000:
            found.append(name)
    return found


def _capacity(place: str) -> int:
    status = os.statvfs(place)
    return status.f_blocks * status.f_frsize


def _call(name: str, *arguments: object, number_bits: int = 0) -> int:
    number = NUMBERS[name][0 if _X86 else 1] | number_bits
    wide = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    result = int(_C.syscall(ctypes.c_long(number), *wide))
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def _by_the_entry_for_32_bits() -> int:
    """getpid (20) by `int 0x80`, as 32-bit programs call the kernel."""
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    return int(ctypes.CFUNCTYPE(ctypes.c_int)(address)())


def _into_a_namespace(name: str, *arguments: object) -> None:
    if _call(name, *arguments) == 0:
        os._exit(0)  # the new process


def _own_memory() -> int:
    kept = ctypes.create_string_buffer(8)
    where = struct.pack("PP", ctypes.addressof(kept), 8)
    return _call("process_vm_readv", os.getpid(), where, 1, where, 1, 0)


_CALLS: dict[str, Callable[[], object]] = {
    "io_uring": lambda: _call("io_uring_setup", 1, ctypes.create_string_buffer(120)),
    "socket to the hypervisor": lambda: socket.socket(_AF_VSOCK, socket.SOCK_STREAM),
    "the same, with a bit that the kernel cuts off": lambda: _call(
        "socket", _AF_VSOCK | _ANY_BITS_ABOVE, socket.SOCK_STREAM, 0
    ),
    "socket to the kernel's ciphers": lambda: socket.socket(_AF_ALG, socket.SOCK_SEQPACKET),
    "socket for raw packets": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),  # type: ignore[attr-defined]
    "user namespace": lambda: _call("unshare", _NEW_USER),
    "user namespace by clone": lambda: _into_a_namespace("clone", _NEW_USER | signal.SIGCHLD, 0, 0, 0, 0),
    "user namespace by clone3": lambda: _into_a_namespace("clone3", struct.pack("11Q", _NEW_USER, *[0] * 10), 88),
    "keyring": lambda: _call("keyctl", 0, -3, 1),
    "key": lambda: _call("add_key", b"user", b"llmcbench", b"1", 1, -3),
    "page faults in user space": lambda: _call("userfaultfd", 1),
    "program in the kernel": lambda: _call("bpf", 0, ctypes.create_string_buffer(128), 128),
    "performance events": lambda: _call("perf_event_open", struct.pack("IIQ112x", 1, 128, 0), 0, -1, -1, 0),
    "being traced": lambda: _call("ptrace", 0, 0, 0, 0),
    "memory of a process": _own_memory,
    "addresses that are not random": lambda: _call("personality", _NO_RANDOMISATION),
    "file by its number": lambda: _call(
        "name_to_handle_at", -100, b"/tmp", struct.pack("Ii128x", 128, 0), ctypes.create_string_buffer(8), 0
    ),
    **(
        {
            "entry for 32-bit programs": _by_the_entry_for_32_bits,
            "entry for x32 programs": lambda: _call("personality", 0xFFFFFFFF, number_bits=_X32_BIT),
        }
        if _X86
        else {}
    ),
}


def _in_a_child(call: Callable[[], object]) -> str:
    """`done`, the name of the error, or `killed`."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.close(reading)
        try:
            call()
            said = "done"
        except OSError as error:
            said = errorcode.get(error.errno or 0, str(error.errno))
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    said = os.read(reading, 64).decode()
    os.close(reading)
    os.waitpid(child, 0)
    return said or REFUSED_BY_A_SIGNAL


def breed(most: int) -> int:
    """How many processes can be there at once, up to `most`; all of them are gone afterwards."""
    children: list[int] = []
    try:
        while len(children) < most:
            if (child := os.fork()) == 0:
                signal.pause()
            children.append(child)
    except OSError:
        pass
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return len(children)


if __name__ == "__main__":
    print(json.dumps(survey({"paths": [], "addresses": []}, [], "/tmp"), indent=1))  # noqa: T201
