"""A real SLURM of two nodes on this machine, on loopback alone: slurmctld, two slurmd and munge, as root.

What is not as on a real cluster: both nodes are this machine, their CPUs and memory are made up, their GPUs are device
files that every container has, and no cgroup holds a job to its memory.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONFIGURATION = Path("/etc/slurm")
"""The one place where SLURM's commands look inside a job."""

NEEDED = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "scontrol")
PACKAGES = "slurmctld slurmd slurm-client munge"
NODES = ("node1", "node2")
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random")
"""slurmd takes a GPU's file only if it is a character device and no other GPU's."""

SLURM_CONF = """
ClusterName=onebox
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={control}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# A job that is requeued waits until its credential has expired.
AuthInfo=socket={state}/munge.socket,cred_expire=10
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={state}/slurmctld
SlurmctldPidFile={state}/slurmctld.pid
SlurmctldLogFile={state}/slurmctld.log
SlurmdSpoolDir={state}/%n
SlurmdPidFile={state}/slurmd-%n.pid
SlurmdLogFile={state}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,batch_sched_delay=0
ReturnToService=2
KillWait=20
# squeue tells of jobs long after their end, so that tests can ask.
MinJobAge=36000
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=node1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={first} CPUs=64 RealMemory=500000 Gres=gpu:4
NodeName=node2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={second} CPUs=64 RealMemory=500000 Gres=gpu:4
PartitionName=cpu Nodes=node[1-2] Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes=node[1-2] MaxTime=INFINITE State=UP
"""

# slurmd reads this even where it uses no cgroup; version 1 with all limits off asks nothing of the kernel.
CGROUP_CONF = """
CgroupPlugin=cgroup/v1
CgroupAutomount=no
ConstrainCores=no
ConstrainRAMSpace=no
ConstrainDevices=no
"""


class NoClusterError(Exception):
    """This machine cannot bring up a SLURM; the message says why."""


@contextmanager
def one_machine_cluster(state: Path) -> Iterator[None]:
    """Bring the cluster up for as long as the block runs, and end all of it afterwards, jobs included.

    Args:
        state: an empty folder for keys, pids, logs and spool.

    Raises:
        NoClusterError: the user is not root, SLURM is not installed, or the machine has one already.
        RuntimeError: the nodes did not become idle.
    """
    _check()
    try:
        _configure(state)
        _start(state)
        yield
    finally:
        _stop(state)


def _check() -> None:
    if os.geteuid() != 0:
        raise NoClusterError("slurmctld and slurmd need root, and this user is not")
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        raise NoClusterError(f"{missing[0]} is not installed: apt-get install {PACKAGES}")
    here = CONFIGURATION / "slurm.conf"
    if here.exists():
        raise NoClusterError(f"{here} exists: this machine belongs to a cluster, or such a test is running")


def _configure(state: Path) -> None:
    state.chmod(0o755)
    for folder in ("slurmctld", *NODES):
        (state / folder).mkdir()
    control, first, second = _free_ports(3)
    files = {
        "slurm.conf": SLURM_CONF.format(state=state, control=control, first=first, second=second),
        "gres.conf": "".join(f"NodeName=node[1-2] Name=gpu File={device}\n" for device in DEVICES),
        "cgroup.conf": CGROUP_CONF,
    }
    CONFIGURATION.mkdir(exist_ok=True)
    for name, text in files.items():
        (state / name).write_text(text)
        link = CONFIGURATION / name
        link.unlink(missing_ok=True)
        link.symlink_to(state / name)
    key = state / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)


def _free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def _start(state: Path) -> None:
    files = {"socket": "socket", "pid-file": "pid", "seed-file": "seed", "log-file": "log"}
    options = [f"--{option}={state}/munge.{suffix}" for option, suffix in files.items()]
    (state / "munge.pid").unlink(missing_ok=True)
    subprocess.run(["munged", "--force", f"--key-file={state}/munge.key", *options], check=True)
    subprocess.run(["slurmctld", "-i"], check=True)
    for node in NODES:
        subprocess.run(["slurmd", "-N", node], check=True)
    idle = ["sinfo", "--noheader", "--responding", "--Node", "--partition=gpu", "--states=idle"]
    for _ in range(300):
        if len(subprocess.run(idle, capture_output=True, text=True, check=False).stdout.splitlines()) == len(NODES):
            return
        time.sleep(0.1)
    logs = "\n".join(file.read_text()[-2000:] for file in state.glob("*.log"))
    raise RuntimeError(f"the nodes did not become idle:\n{logs}")


def _stop(state: Path) -> None:
    """End jobs, then the daemons, by the numbers of their processes."""
    if shutil.which("scancel"):
        subprocess.run(["scancel", "--user", "root"], capture_output=True, check=False)
    pids = [state / f"slurmd-{node}.pid" for node in NODES] + [state / "slurmctld.pid", state / "munge.pid"]
    for file in (file for file in pids if file.exists()):
        pid = int(file.read_text())
        try:
            os.kill(pid, 15)
            while Path(f"/proc/{pid}").exists():
                time.sleep(0.1)
        except ProcessLookupError:
            continue
    for link in CONFIGURATION.glob("*.conf"):
        if link.is_symlink() and link.readlink().parent == state:
            link.unlink()
