"""What every command does the same way: its log, its one line of error, its cost."""

import json
import logging
import os
import resource
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NoReturn, TypeVar, cast

from pydantic import BaseModel, TypeAdapter, ValidationError
from tqdm import tqdm

from ontogeny.errors import UserError
from ontogeny.memory import collect_as_usual, keep_freed_memory

log = logging.getLogger("ontogeny")

SettingsT = TypeVar("SettingsT", bound=BaseModel)
ItemT = TypeVar("ItemT")

SECONDS_BETWEEN_LINES = 10.0
"""How often progress is written to a log."""

KEPT_LOG = 2**18
"""Bytes of failed attempts that a log keeps before what the present one writes."""
ATTEMPT = "\nattempt at "
"""Begins the part of a log that another attempt follows."""


class Parser(ArgumentParser):
    """Reads options, and gives one line for a mistake."""

    def error(self, message: str) -> NoReturn:
        """End the command with exit code 1."""
        raise SystemExit(f"error: {message}")


def command(description: str | None) -> ArgumentParser:
    """Make the parser of a command, with the options that all commands share."""
    parser = Parser(description=description)
    parser.add_argument("--study", type=Path, help="the study's study.json, named in everything that is written")
    parser.add_argument("--log", type=Path, help="file for the log and all other output; the terminal if left out")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    return parser


def settings(kind: type[SettingsT]) -> Callable[[str], SettingsT]:
    """Make the argparse type of an option that holds a part of the study as JSON."""
    return _parser(TypeAdapter(kind), kind.__name__)


def union_settings(kind: object, name: str) -> Callable[[str], BaseModel]:
    """Make the argparse type of an option that holds one of several parts of the study, told apart by `source`.

    Args:
        kind: the union, such as `CorpusSettings`.
        name: what the error of a bad value calls it.
    """
    return _parser(TypeAdapter(cast("type[BaseModel]", kind)), name)


def run(parser: ArgumentParser, main: Callable[[Namespace], dict[str, float] | None]) -> None:
    """Run a command: write its log, its cost, and for a user's mistake one line and exit code 1.

    Of several processes that torchrun started as one command, the first writes the log and its cost, and the others
    add warnings and errors to it; the threads are divided among those of a machine.

    Args:
        parser: made by `command`.
        main: does the work and returns what was counted, such as `{"rows": 65536}`; rates are logged from it.
    """
    collect_as_usual()
    keep_freed_memory()
    arguments = parser.parse_args()
    is_first = os.environ.get("RANK", "0") == "0"
    terminal = _redirect(arguments.log, is_first)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    log.setLevel(logging.INFO if is_first else logging.WARNING)
    if "torch" in sys.modules:
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        sys.modules["torch"].set_num_threads(max(1, arguments.threads // processes))
    start = time.monotonic()
    try:
        counts = main(arguments) or {}
    except UserError as error:
        line = f"error: {error}"
        for stream in (2,) if terminal is None else (2, terminal):
            os.write(stream, f"{line}\n".encode())
        raise SystemExit(1) from None
    log.info("cost %s", json.dumps(_cost(time.monotonic() - start, counts)))


def progress(
    items: Iterable[ItemT], total: int | None, unit: str, size: Callable[[ItemT], int] | None = None
) -> Iterator[ItemT]:
    """Yield `items` and show how far they are: a bar on a terminal, a line every ten seconds in a log.

    Args:
        items: what is worked through.
        total: how many units there are in all; None where that is not known.
        unit: name of a unit, such as `rows`.
        size: units of an item; 1 if left out.
    """
    if sys.stderr.isatty():
        with tqdm(total=total, unit=f" {unit}", unit_scale=True) as bar:
            for item in items:
                yield item
                bar.update(size(item) if size else 1)
        return
    start = last = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += size(item) if size else 1
        now = time.monotonic()
        if done and (now - last > SECONDS_BETWEEN_LINES or done == total):
            rate = done / max(now - start, 1e-9)
            if total is None:
                log.info("%d %s, %.4g %s/s", done, unit, rate, unit)
            else:
                log.info("%d of %d %s, %.4g %s/s, %.0f s left", done, total, unit, rate, unit, (total - done) / rate)
            last = now


def _parser(parts: TypeAdapter[SettingsT], name: str) -> Callable[[str], SettingsT]:
    def parse(text: str) -> SettingsT:
        try:
            return parts.validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise ArgumentTypeError(f"no {name}: {first['loc']}: {first['msg']}") from None

    return parse


def _redirect(file: Path | None, is_first: bool) -> int | None:
    """Send standard output and error to `file`, and return a descriptor of what standard error was before.

    What a failed or killed attempt wrote stays above it: a job that is retried would otherwise never say why. Of
    several processes the first alone begins the log; the others add to its end.
    """
    if file is None:
        return None
    file.parent.mkdir(parents=True, exist_ok=True)
    terminal = os.dup(2)
    if is_first:
        earlier = _failed_attempts(file)
        file.write_bytes(earlier + f"{ATTEMPT}{time.strftime('%F %T')}\n".encode() if earlier else b"")
    target = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)
    return terminal


def _failed_attempts(file: Path) -> bytes:
    """Read the end of what attempts before wrote; nothing where the last one told its cost, so came to its end."""
    written = file.read_bytes() if file.is_file() else b""
    return b"" if b" cost {" in written.rpartition(ATTEMPT.encode())[2] else written[-KEPT_LOG:]


def _cost(seconds: float, counts: dict[str, float]) -> dict[str, float]:
    """Measure what the process took: seconds, CPU seconds, peak memory in MiB, and the rate of everything counted."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    scale = 2**20 if sys.platform == "darwin" else 2**10
    cost = {"seconds": seconds, "cpu_seconds": used.ru_utime + used.ru_stime, "peak_memory_mib": used.ru_maxrss / scale}
    for name, count in counts.items():
        cost[name] = count
        cost[f"{name}_per_second"] = count / seconds
    return {name: round(value, 3) for name, value in cost.items()}
