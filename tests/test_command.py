"""Every command logs its progress and cost, and tells a user's mistake in one line."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from ontogeny import command

SCRIPTS = Path(command.__file__).resolve().parents[1]

PROGRAM = """
import sys
sys.path.insert(0, {scripts!r})
from ontogeny.command import command, progress, run
from ontogeny.errors import UserError

def main(arguments):
    for _ in progress(range(3), 3, "rows"):
        pass
    print("from a library")
    if arguments.fail:
        raise UserError("corpus.txt: 3 words, expected 10; add text")
    return {{"rows": 3}}

parser = command("Count.")
parser.add_argument("--fail", action="store_true")
run(parser, main)
"""


def _run(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = tmp_path / "count.py"
    program.write_text(PROGRAM.format(scripts=str(SCRIPTS)))
    return subprocess.run([sys.executable, program, *arguments], capture_output=True, text=True, check=False)


def test_mistake_is_one_line_on_the_terminal_and_in_the_log(tmp_path: Path) -> None:
    done = _run(tmp_path, "--fail", "--log", str(tmp_path / "logs/count.log"))
    line = "error: corpus.txt: 3 words, expected 10; add text\n"
    assert done.returncode == 1
    assert done.stderr == line
    assert done.stdout == ""
    log = (tmp_path / "logs/count.log").read_text()
    assert log.endswith(line)
    assert "from a library" in log


def test_log_of_a_failed_attempt_stays_until_one_succeeds(tmp_path: Path) -> None:
    log = tmp_path / "count.log"
    for attempts in (1, 2, 3):
        _run(tmp_path, "--fail", "--log", str(log))
        assert log.read_text().count("error: corpus.txt") == attempts
        assert log.read_text().count("\nattempt at 20") == attempts - 1
    _run(tmp_path, "--log", str(log))
    assert log.read_text().count("error: corpus.txt") == 3
    _run(tmp_path, "--log", str(log))
    assert "error" not in log.read_text()
    assert "attempt" not in log.read_text()


def test_log_of_failed_attempts_does_not_grow_without_end(tmp_path: Path) -> None:
    log = tmp_path / "count.log"
    log.write_text("early\n" + "late\n" * command.KEPT_LOG)
    _run(tmp_path, "--fail", "--log", str(log))
    assert command.KEPT_LOG < log.stat().st_size < command.KEPT_LOG + 2000
    assert "late\n\nattempt at 20" in log.read_text()


def test_mistake_without_a_log_is_one_line(tmp_path: Path) -> None:
    done = _run(tmp_path, "--fail")
    assert done.stderr.count("error:") == 1


def test_an_unknown_option_is_one_line(tmp_path: Path) -> None:
    done = _run(tmp_path, "--fails")
    assert done.returncode == 1
    assert done.stderr == "error: unrecognized arguments: --fails\n"


def test_log_ends_with_what_the_command_cost(tmp_path: Path) -> None:
    done = _run(tmp_path, "--log", str(tmp_path / "count.log"))
    assert done.returncode == 0
    assert done.stderr == ""
    lines = (tmp_path / "count.log").read_text().splitlines()
    cost = json.loads(next(line for line in lines if " cost " in line).split(" cost ")[1])
    assert cost["rows"] == 3
    assert cost["peak_memory_mib"] > 5
    assert {"seconds", "cpu_seconds", "rows_per_second"} <= set(cost)
    assert any("3 of 3 rows" in line for line in lines)


def test_slow_first_item_without_size_is_no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "SECONDS_BETWEEN_LINES", -1.0)
    assert list(command.progress(range(3), 2, "steps", lambda step: min(step, 1))) == [0, 1, 2]


MEMORY = """
import gc, resource, sys
sys.path.insert(0, {scripts!r})
import numpy as np
from ontogeny.command import command, run

def main(arguments):
    faults = []
    for _ in range(20):
        arrays = [np.ones(2**20, np.float32) for _ in range(8)]
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    print(faults[-1] - faults[1], gc.get_threshold()[0])

run(command("Allocate."), main)
"""


def test_freed_memory_is_used_again_without_a_page_fault(tmp_path: Path) -> None:
    program = tmp_path / "allocate.py"
    program.write_text(MEMORY.format(scripts=str(SCRIPTS)))
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True)
    faults, threshold = map(int, done.stdout.split())
    assert faults < 1000 or platform.libc_ver()[0] != "glibc"
    assert threshold < 10_000
