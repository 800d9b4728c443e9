"""The system calls that a worker in a container may make: those named here, and no other.

`seccomp_profile` is what the engine is given in place of its own default. Sources: the tables of Linux' system calls
for x86-64 and for 64-bit Arm, and what the manual pages (section 2) say of each. A name that the kernel or the engine's
libseccomp does not know counts nothing, so one profile serves both machines and older engines.

Only the machine's own 64-bit calls are open; one by the entry for 32-bit programs (or x32) kills the worker.
"""

import errno
import json
import os
import socket
import stat
from dataclasses import dataclass

ALLOWED = {
    "files": """
        access chdir chown close close_range copy_file_range dup dup2 dup3 faccessat faccessat2 fadvise64 fallocate
        fchdir fchown fchownat fcntl fdatasync flock fstat fstatfs fsync ftruncate futimesat getcwd getdents getdents64
        inotify_add_watch inotify_init inotify_init1 inotify_rm_watch ioctl lchown link linkat lseek lstat mkdir mkdirat
        newfstatat poll ppoll pread64 preadv preadv2 pselect6 pwrite64 pwritev pwritev2 read readahead readlink
        readlinkat readv rename renameat renameat2 rmdir select sendfile splice stat statfs statx symlink symlinkat sync
        sync_file_range syncfs tee truncate umask unlink unlinkat utime utimensat utimes vmsplice write writev
        fgetxattr flistxattr fremovexattr fsetxattr getxattr lgetxattr listxattr llistxattr lremovexattr lsetxattr
        removexattr setxattr
        epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old
        eventfd eventfd2 pipe pipe2 signalfd signalfd4 timerfd_create timerfd_gettime timerfd_settime
        io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit
    """,
    "memory": """
        brk cachestat madvise memfd_create memfd_secret mincore mlock mlock2 mlockall mmap mprotect mremap msync munlock
        munlockall munmap map_shadow_stack
        mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd
        semctl semget semop semtimedop shmat shmctl shmdt shmget
    """,
    "processes, threads and signals": """
        alarm arch_prctl execve execveat exit exit_group fork futex futex_requeue futex_wait futex_waitv futex_wake
        get_robust_list get_thread_area getcpu getitimer kill membarrier pause pidfd_open pidfd_send_signal prctl
        restart_syscall rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
        rt_sigtimedwait rt_tgsigqueueinfo set_robust_list set_thread_area set_tid_address setitimer sigaltstack tgkill
        tkill vfork wait4 waitid
        getpriority ioprio_get ioprio_set sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr
        sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam
        sched_setscheduler sched_yield setpriority
        getrlimit getrusage prlimit64 setrlimit sysinfo times uname
    """,
    "who it is, and giving rights up": """
        capget capset getegid geteuid getgid getgroups getpgid getpgrp getpid getppid getresgid getresuid getsid gettid
        getuid setfsgid setfsuid setgid setgroups setpgid setregid setresgid setresuid setreuid setsid setuid
        landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp
    """,
    "time and chance": """
        clock_getres clock_gettime clock_nanosleep getrandom gettimeofday nanosleep time timer_create timer_delete
        timer_getoverrun timer_gettime timer_settime
    """,
    "sockets that are open": """
        accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg sendmmsg sendmsg
        sendto setsockopt shutdown
    """,
}
"""By what they are for; those that depend on an argument are in `ON_CONDITION`."""

REFUSED = {
    "queues of calls that no such list sees": "io_uring_enter io_uring_register io_uring_setup",
    "namespaces and mounts": """
        chroot fsconfig fsmount fsopen fspick mount mount_setattr move_mount open_tree pivot_root setns umount2 unshare
    """,
    "other processes": """
        kcmp move_pages pidfd_getfd process_madvise process_mrelease process_vm_readv process_vm_writev ptrace
    """,
    "the kernel's own programs, keys and events": """
        add_key bpf fanotify_init fanotify_mark keyctl lookup_dcookie perf_event_open request_key userfaultfd
    """,
    "files by their number, past all folders": "name_to_handle_at open_by_handle_at",
    "the machine": """
        acct adjtimex clock_adjtime clock_settime delete_module finit_module init_module ioperm iopl kexec_file_load
        kexec_load quotactl quotactl_fd reboot setdomainname sethostname settimeofday swapoff swapon syslog vhangup
    """,
    "on which node memory lies, and keys to it": """
        get_mempolicy mbind migrate_pages set_mempolicy set_mempolicy_home_node pkey_alloc pkey_free pkey_mprotect
    """,
    "left over from older systems": """
        _sysctl afs_syscall create_module get_kernel_syms getpmsg modify_ldt nfsservctl putpmsg query_module
        remap_file_pages security sysfs tuxcall uselib ustat vserver
    """,
}
"""Those of Linux 6.1 that no worker may make, said so that each call is seen to be decided; what is in neither list,
such as a call of a later Linux, is refused as well."""

FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)
"""Of sockets. Not AF_VSOCK, which reaches the hypervisor whatever the container's network, nor AF_ALG or AF_PACKET."""

_NAMESPACES = 0x7E020000
"""The flags of clone(2) that make namespaces: CLONE_NEWCGROUP, NEWIPC, NEWNET, NEWNS, NEWPID, NEWUSER and NEWUTS."""
_ORDINARY, _ASKING = 0, 0xFFFFFFFF
"""For personality(2): as Linux is, without which address randomisation could be turned off; and which it is."""
_SET_ID = stat.S_ISUID | stat.S_ISGID
_CREATING = os.O_CREAT | (os.O_TMPFILE & ~os.O_DIRECTORY)


@dataclass(frozen=True)
class Argument:
    """What an argument, counted from 0, has to be: of the bits of `mask`, those of `value` and no others.

    Kernels cut many arguments to 32 bits and these rules do not, so they name what is allowed: a rule against one value
    would let the same value with a higher bit pass.
    """

    index: int
    value: int
    mask: int | None = None

    def rule(self) -> dict[str, int | str]:
        if self.mask is None:
            return {"index": self.index, "op": "SCMP_CMP_EQ", "value": self.value, "valueTwo": 0}
        return {"index": self.index, "op": "SCMP_CMP_MASKED_EQ", "value": self.mask, "valueTwo": self.value}


def _without(mask: int, *indices: int) -> tuple[Argument, ...]:
    return tuple(Argument(index, 0, mask) for index in indices)


ON_CONDITION = {
    "clone": _without(_NAMESPACES, 0),
    "personality": (Argument(0, _ORDINARY), Argument(0, _ASKING)),
    "socket": tuple(Argument(0, int(family)) for family in FAMILIES),
    "socketpair": tuple(Argument(0, int(family)) for family in FAMILIES),
    # No file that runs as its owner or group: what a worker leaves lies on the host while it is at work.
    "chmod": _without(_SET_ID, 1),
    "fchmod": _without(_SET_ID, 1),
    "fchmodat": _without(_SET_ID, 2),
    "fchmodat2": _without(_SET_ID, 2),
    "creat": _without(_SET_ID, 1),
    "mknod": _without(_SET_ID, 1),
    "mknodat": _without(_SET_ID, 2),
    "open": (*_without(_CREATING, 1), *_without(_SET_ID, 2)),
    "openat": (*_without(_CREATING, 2), *_without(_SET_ID, 3)),
}
"""Allowed where one of the conditions holds."""

ABSENT = ("clone3", "openat2")
"""Their arguments lie in memory, where no rule sees them; told that there is no such call, libraries take the older."""


def seccomp_profile() -> str:
    """The profile as JSON, in the form that container engines read."""
    names = sorted(name for group in ALLOWED.values() for name in group.split())
    calls: list[dict[str, object]] = [
        {"names": names, "action": "SCMP_ACT_ALLOW"},
        {"names": list(ABSENT), "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS},
    ]
    calls += [
        {"names": [name], "action": "SCMP_ACT_ALLOW", "args": [one.rule()]}
        for name, conditions in ON_CONDITION.items()
        for one in conditions
    ]
    return json.dumps({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": calls})
