"""Slurm as Debian packages it, all of it on this machine, in a folder and on ports of its own."""

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.cluster_store import wait_until

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
ReturnToService=2
KillWait=5
MinJobAge=3600
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
"""A job that is queued again waits for its credential to expire (`cred_expire`)."""
_DAEMONS = ("slurmd.pid", "slurmctld.pid", "munge/pid")


def why_no_slurm() -> str:
    """Empty where Slurm can be started here."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if missing:
        return f"{', '.join(missing)} of the packages slurm-wlm and munge are not installed"
    return "" if os.geteuid() == 0 else "only root can start munged and slurmd"


@dataclass(frozen=True)
class Slurm:
    """A cluster of one node with two processors."""

    folder: Path

    @property
    def variables(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": _path()}

    def ask(self, *command: str) -> str:
        """What one of Slurm's commands prints."""
        done = subprocess.run(command, env=os.environ | self.variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def state(self, job: str) -> str:
        """Of a job, or of a task of an array by `JOB_TASK`."""
        return self._fact(job, "JobState")

    def restarts(self, job: str) -> int:
        return int(self._fact(job, "Restarts"))

    def exit_status(self, job: str) -> int:
        return int(self._fact(job, "ExitCode").partition(":")[0])

    def _fact(self, job: str, name: str) -> str:
        shown = self.ask("scontrol", "show", "job", "--oneliner", job).split()
        return next(word.partition("=")[2] for word in shown if word.startswith(f"{name}="))


@contextmanager
def running_slurm(folder: Path) -> Iterator[Slurm]:
    for name, mode in (("munge", 0o700), ("state", 0o755), ("spool", 0o755)):
        (folder / name).mkdir(mode=mode)
    slurm, host = Slurm(folder), socket.gethostname().partition(".")[0]
    ports = {"controller_port": _free_port(), "node_port": _free_port()}
    (folder / "slurm.conf").write_text(CONFIGURATION.format(folder=folder, host=host, **ports), encoding="ascii")
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    munge = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    with ExitStack() as stack:
        for name in reversed(_DAEMONS):
            stack.callback(_stop, folder / name)
        slurm.ask("munged", "--force", *(f"--{name}={folder}/munge/{file}" for name, file in munge.items()))
        slurm.ask("slurmctld", "-f", slurm.variables["SLURM_CONF"])
        slurm.ask("slurmd", "-f", slurm.variables["SLURM_CONF"])
        wait_until(lambda: slurm.ask("sinfo", "--noheader", "--format=%T").strip() == "idle", "the node is there")
        yield slurm


def _stop(pid: Path) -> None:
    if not pid.exists():
        return
    number = int(pid.read_text())
    os.kill(number, signal.SIGTERM)
    wait_until(lambda: not Path(f"/proc/{number}").exists(), f"{pid.name} has ended")


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
