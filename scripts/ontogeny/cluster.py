"""What a SLURM cluster lacks for this pipeline, one line each."""

import ast
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from humanfriendly import InvalidTimespan, parse_timespan

from ontogeny.errors import UserError, first_line

COMMANDS = ("sinfo", "sbatch", "srun", "squeue", "scontrol", "scancel")

HELLO = Path(__file__).parents[1] / "check_cluster.py"
LAUNCH = HELLO.with_name("launch.py")

POLLS = 3
"""A job that has ended must be in the queue for this many times the time between two looks at it."""

FIRST_LOOK = 40
"""Seconds after which the executor looks first, where the profile does not say."""


class Finding(NamedTuple):
    """The result of one check."""

    good: bool
    """Whether nothing is missing."""
    text: str
    """What was found, or what is missing and what to do."""


class Request(NamedTuple):
    """What the profile asks for a rule."""

    rule: str
    """Name of the rule; `default` for those that the profile does not name."""
    resources: Mapping[str, Any]
    """Resources by name, defaults included."""
    threads: int | str
    """CPUs on each node, or an expression for them."""

    def number(self, name: str, otherwise: int) -> int:
        """Look up a number; of an expression, which the workflow alone can compute, the largest one it may give."""
        return _largest(self.resources.get(name, otherwise))

    def place(self) -> list[str]:
        """Write where a job may run, and for whom, as options of sbatch and srun."""
        options: list[str] = []
        names = {"slurm_partition": "-p", "slurm_account": "-A", "qos": "--qos", "constraint": "-C"}
        for key, option in names.items():
            options += [option, str(self.resources[key])] if key in self.resources else []
        return options

    def options(self) -> list[str]:
        """Write the request as options of sbatch."""
        nodes, gpus = self.number("nodes", 1), self.number("gpu", 0)
        minutes, runtime = self.number("runtime", 60), self.resources.get("runtime")
        if isinstance(runtime, str):
            with suppress(InvalidTimespan):  # an expression, and no text such as 2d
                minutes = round(parse_timespan(runtime) / 60)
        options = [*self.place(), "--nodes", str(nodes), "--cpus-per-task", str(_largest(self.threads))]
        options += ["-t", str(minutes), "--mem", str(self.number("mem_mb", 1000))]
        return [*options, f"--gpus-per-node={-(-gpus // nodes)}"] if gpus else options


def _largest(value: object) -> int:
    """Take a number, or the largest of those that an expression such as `8 if ... else 1` may give; else 1."""
    if not isinstance(value, str):
        return value if isinstance(value, int) else 1
    try:
        tree = ast.parse(value.strip(), mode="eval").body
    except SyntaxError:
        return 1
    ends = [tree]
    while any(isinstance(end, ast.IfExp) for end in ends):
        ends = [part for end in ends for part in ((end.body, end.orelse) if isinstance(end, ast.IfExp) else (end,))]
    return max((end.value for end in ends if isinstance(end, ast.Constant) and isinstance(end.value, int)), default=1)


def read_profile(*files: Path) -> tuple[dict[str, Any], list[Request]]:
    """Read profiles, later ones on top of earlier ones.

    Returns:
        All keys, and what is asked for each rule, `default` first.

    Raises:
        UserError: a file is missing, no YAML, or names no partition.
    """
    profile: dict[str, Any] = {"default-resources": {}, "set-resources": {}, "set-threads": {}}
    for file in files:
        given = _read(file)
        for rule, own in given.pop("set-resources", {}).items():
            profile["set-resources"][rule] = {**profile["set-resources"].get(rule, {}), **own}
        for key in ("default-resources", "set-threads"):
            profile[key] |= given.pop(key, {})
        profile |= given
    default, named, threads = profile["default-resources"], profile["set-resources"], profile["set-threads"]
    if "slurm_partition" not in default:
        raise UserError(f"{files[0]}: default-resources names no slurm_partition; set one that `sinfo` lists")
    rules = sorted({**named, **threads})
    asked = [Request(rule, {**default, **named.get(rule, {})}, threads.get(rule, 1)) for rule in rules]
    return profile, [Request("default", default, 1), *asked]


def _read(file: Path) -> dict[str, Any]:
    try:
        given = yaml.safe_load((file / "config.yaml" if file.is_dir() else file).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{file}: no profile ({first_line(error)}); expected a folder with config.yaml") from None
    if not isinstance(given, dict):
        raise UserError(f"{file}: no profile; expected keys and values, as in profiles/slurm/config.yaml")
    return given


def findings(profile: Mapping[str, Any], requests: list[Request], folder: Path, seconds: int) -> Iterator[Finding]:
    """Check one thing after the other, and stop where the next ones would make no sense.

    Args:
        profile: all keys of the profile.
        requests: what it asks for each rule.
        folder: a folder of the shared file system, such as the results root; a file is written there for a moment.
        seconds: how long to wait for each of the two jobs that are submitted.
    """
    missing = [name for name in COMMANDS if shutil.which(name) is None]
    if missing:
        yield Finding(False, f"{missing[0]} is not on the PATH: load SLURM's module, or log in to a submit host")
        return
    said = _run("sinfo", "--noheader", "--format=%R %D %G")
    if said.returncode:
        yield Finding(False, f"sinfo: {_last(said)}; SLURM's controller does not answer")
        return
    partitions = {line.split()[0] for line in said.stdout.splitlines() if line.split()}
    yield Finding(True, f"SLURM answers; partitions are {', '.join(sorted(partitions))}")
    for request in requests:
        yield _accepted(request, partitions)
    yield _status(profile)
    asked = max(requests, key=lambda request: (request.number("gpu", 0) > 0, request.rule == "dictionary"))
    yield _on_a_node(asked, folder, seconds)
    yield _hello(asked, folder, seconds)


def _accepted(request: Request, partitions: set[str]) -> Finding:
    """Ask SLURM whether it would take a job of this rule."""
    partition = str(request.resources["slurm_partition"])
    if partition not in partitions:
        return Finding(
            False, f"{request.rule}: there is no partition {partition!r}; set slurm_partition in the profile"
        )
    said = _run("sbatch", "--test-only", *request.options(), "--wrap", "true")
    words = " ".join(request.options())
    if said.returncode:
        return Finding(False, f"{request.rule}: SLURM would refuse `{words}`: {_last(said)}; change it in the profile")
    return Finding(True, f"{request.rule}: SLURM would take `{words}`")


def _status(profile: Mapping[str, Any]) -> Finding:
    """See whether the executor would learn that a job has ended."""
    if profile.get("slurm-status-command") == "squeue":
        found = [line for line in _run("scontrol", "show", "config").stdout.splitlines() if "MinJobAge" in line]
        age = int(found[0].split("=")[1].split()[0]) if found else 0
        needed = POLLS * int(profile.get("slurm-init-seconds-before-status-checks", FIRST_LOOK))
        if age < needed:
            wanted = f"MinJobAge {needed} in slurm.conf, or a lower slurm-init-seconds-before-status-checks"
            return Finding(False, f"squeue forgets jobs after {age} s, before the workflow looks: set {wanted}")
        return Finding(True, f"squeue remembers ended jobs for {age} s")
    said = _run("sacct", "--noheader", "-X")
    if said.returncode:
        return Finding(
            False, f"sacct: {_last(said)}; without accounting, set slurm-status-command: squeue in the profile"
        )
    return Finding(True, "sacct answers")


def _on_a_node(request: Request, folder: Path, seconds: int) -> Finding:
    """Let a node read a file that was written here, and import what commands import."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / f".check-{os.getpid()}"
    mark.write_text("here")
    reads = f"assert open({str(mark.resolve())!r}).read() == 'here'; import torch, transformer_lens, h5py"
    options = [*request.place(), "-t", "10", "--mem", "4000"]
    try:
        said = _run("srun", "--job-name", "check-cluster", *options, sys.executable, "-c", reads, seconds=seconds)
    finally:
        mark.unlink(missing_ok=True)
    if said.returncode:
        mend = f"a node must see {folder} and the Python environment {Path(sys.prefix)} where they are here"
        return Finding(False, f"file system: {_last(said)}; {mend}")
    return Finding(True, f"file system: a node sees {folder} and the Python environment")


def _hello(request: Request, folder: Path, seconds: int) -> Finding:
    """Let two nodes meet by torchrun and add up their numbers."""
    gpu = ["--gpus-per-node=1"] if request.number("gpu", 0) else []
    out = folder / f".hello-{os.getpid()}.log"
    words = [sys.executable, LAUNCH, "--nodes", 2, "--processes", 2, "--", HELLO, "--hello"]
    place = [*request.place(), "--nodes", "2", "--ntasks", "2", "-t", "10"]
    job = ["--wait", "--job-name", "check-cluster", "--mem", "4000", "--output", str(out), *place, *gpu]
    try:
        said = _run("sbatch", *job, "--wrap", " ".join(map(str, words)), seconds=seconds)
        heard = out.read_text() if out.exists() else ""
    finally:
        out.unlink(missing_ok=True)
    if said.returncode or "hello from 2 processes" not in heard:
        lines = [line for line in heard.splitlines() if line.strip()]
        cause = lines[-1] if lines else _last(said)
        return Finding(False, f"two nodes: {cause}; runs over several nodes need ports from 20000 open between nodes")
    return Finding(True, f"two nodes: {heard.strip().splitlines()[-1]}")


def _run(*words: str, seconds: int = 60) -> "subprocess.CompletedProcess[str]":
    """Run a command; one that takes too long is ended, and says so."""
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        subprocess.run(["scancel", "--name", "check-cluster", "--me"], capture_output=True, check=False)
        return subprocess.CompletedProcess(words, 1, "", f"{words[0]} did not end within {seconds} s")
    except OSError as error:
        return subprocess.CompletedProcess(words, 1, "", f"{words[0]}: {error.strerror}")


def _last(said: "subprocess.CompletedProcess[str]") -> str:
    """Take the last line of what a command said."""
    lines = [line.strip() for line in (said.stderr or said.stdout).splitlines() if line.strip()]
    return lines[-1] if lines else f"exit status {said.returncode}"


def report(found: Iterator[Finding], write: Callable[[str], object]) -> bool:
    """Write a line per finding as it comes; return whether nothing is missing."""
    good, start = True, time.monotonic()
    for finding in found:
        write(f"{'ok     ' if finding.good else 'MISSING'} {finding.text}\n")
        good &= finding.good
    write(f"checked in {time.monotonic() - start:.0f} s\n")
    return good
