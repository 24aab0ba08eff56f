"""Training all runs of a sweep on the same batches: the files of each are those that it would have alone."""

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from ontogeny.activations.reader import Reader
from ontogeny.activations.statistics import read_statistics
from ontogeny.command import progress
from ontogeny.config.dictionaries import RunSettings
from ontogeny.crosscoder.between_steps import between_steps
from ontogeny.crosscoder.one_by_one import OneByOne
from ontogeny.crosscoder.state import Interrupted, SavedState, StateFolder, stop_requests
from ontogeny.crosscoder.sweep import Sweep
from ontogeny.crosscoder.trainer import (
    SECONDS_BETWEEN_LINES,
    Rows,
    log_row,
    open_rows,
    run_fingerprint,
    write_run,
)
from ontogeny.errors import UserError

log = logging.getLogger("ontogeny")

RUN = "run"
"""Key by which the rows of the training log are told apart in a state."""


def train_sweep(
    runs: Sequence[RunSettings],
    activations: Path,
    state: Path,
    out: Path,
    study: Path | None = None,
    fingerprint: str = "",
) -> dict[str, float]:
    """Train runs that differ in latents, k, coefficient and name alone, and write the files of each.

    Where the recipe allows it they share their products, and are equal to runs trained alone but for rounding;
    otherwise they are equal to the byte, with as many threads.

    Args:
        runs: the runs, those of one size side by side; their seed is the same, so that they read the same rows.
        activations: the study's `activations/`.
        state: folder of the training state of all of them; removed at the end.
        out: folder of the dictionary; the folder of each run appears in it whole or not at all.
        study: the study's `study.json`, or None.
        fingerprint: stands for the code; a state that was saved under another one is not gone on with.

    Returns:
        Rows that were read, and rows times runs.

    Raises:
        UserError: a shard is missing or damaged, or a loss is not finite.
        Interrupted: SIGTERM has arrived; the state is saved.
    """
    reader = open_rows(runs[0], activations)
    statistics = [read_statistics(activations / site.key / "statistics.json") for site in runs[0].sites]
    states = StateFolder(state, run_fingerprint(runs, reader, statistics, fingerprint))
    kind = Sweep if runs[0].shares_products else OneByOne
    sweep = kind(runs, reader.steps, reader.d_model, statistics)
    rows = _begin(sweep, reader, states)
    first_step = sweep.steps_done
    if first_step < reader.steps:
        _take_steps(sweep, reader, states, rows)
    for run, crosscoder in zip(runs, sweep.crosscoders, strict=True):
        own = [{key: text for key, text in row.items() if key != RUN} for row in rows if row[RUN] == run.run]
        write_run(out / run.run, run, crosscoder, reader.steps, own, study)
    states.remove()
    read = float((reader.steps - first_step) * runs[0].batch_size)
    return {"rows": read, "rows x runs": read * len(runs)}


def _begin(sweep: Sweep | OneByOne, reader: Reader, states: StateFolder) -> Rows:
    """Go on from the last state, or draw the first weights; return the rows of the training logs so far."""
    saved = states.load()
    if saved is None:
        sweep.initialise(reader.read(0).raw_BSD)
        return []
    sweep.load_state(saved.step, saved.tensors)
    log.info("goes on from step %d of %d, saved in %s", saved.step, reader.steps, states.folder)
    return saved.rows


def _take_steps(sweep: Sweep | OneByOne, reader: Reader, states: StateFolder, rows: Rows) -> None:
    """Take every step that is left, append to `rows`, and save the state now and then."""
    settings, last = sweep.runs[0], reader.steps
    rows_left = (last - sweep.steps_done) * settings.batch_size
    told = start = time.monotonic()
    with stop_requests() as asked, closing(reader.batches(sweep.steps_done, asked)) as batches:
        for batch in progress(batches, rows_left, "rows", lambda _: settings.batch_size):
            if asked():
                break
            number = batch.step + 1
            logged = number in (1, last) or number % settings.log_every == 0
            measured = sweep.step(batch.raw_BSD, logged)
            densities = (
                between_steps(sweep.steppers, reader) if isinstance(sweep, OneByOne) else [[] for _ in sweep.runs]
            )
            rows += [{RUN: run.run, **row} for run, own in zip(sweep.runs, densities, strict=True) for row in own]
            saves = number % settings.save_every == 0 and number < last
            if logged or saves:
                _check_finite(sweep, reader, states)
            rows += [{RUN: run.run, **log_row(row)} for run, row in zip(sweep.runs, measured, strict=bool(measured))]
            if measured and (number == last or time.monotonic() - told > SECONDS_BETWEEN_LINES):
                told = time.monotonic()
                _tell(measured, last, reader.seconds_waited / (told - start))
            if saves:
                states.save(SavedState(number, sweep.state(), rows))
    if sweep.steps_done < last:
        _stop(sweep, reader, states, rows)


def _stop(sweep: Sweep | OneByOne, reader: Reader, states: StateFolder, rows: Rows) -> None:
    """Save the state because the process was asked to stop."""
    _check_finite(sweep, reader, states)
    states.save(SavedState(sweep.steps_done, sweep.state(), rows))
    log.info("stopped on request at step %d of %d; the state is in %s", sweep.steps_done, reader.steps, states.folder)
    raise Interrupted


def _tell(measured: Sequence[Mapping[str, float]], last: int, waited: float) -> None:
    """Write a line to the command's log."""
    fvu = [row["fvu"] for row in measured]
    log.info(
        "step %d of %d: %d runs, FVU %.4f to %.4f; waited for data %.1f %% of the time",
        *(measured[0]["step"], last, len(measured), min(fvu), max(fvu), 100 * waited),
    )


def _check_finite(sweep: Sweep | OneByOne, reader: Reader, states: StateFolder) -> None:
    """Refuse to go on after a loss or a gradient that was not finite."""
    faulty = int(sweep.first_faulty)
    if faulty < 0:
        return
    names = [run.run for run, is_faulty in zip(sweep.runs, sweep.faulty_R.tolist(), strict=True) if is_faulty]
    raise UserError(
        f"step {faulty + 1} of {reader.steps}: the loss or its gradient is not finite in {len(names)} of "
        f"{len(sweep.runs)} runs, first of all {names[0]}, on rows {reader.describe(faulty)}; look at these rows or "
        f"lower the dictionary's learning_rate ({sweep.runs[0].learning_rate:g}), or take sweep: apart, which trains "
        f"the other runs; states saved before are kept in {states.folder}"
    )
