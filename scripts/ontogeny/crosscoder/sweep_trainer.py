"""Training all runs of a sweep side by side: the files of each are those that it would have alone."""

import logging
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from ontogeny.activations.reader import Reader
from ontogeny.activations.statistics import read_statistics
from ontogeny.command import progress
from ontogeny.config.dictionaries import RunSettings
from ontogeny.crosscoder.state import Interrupted, SavedState, StateFolder, stop_requests
from ontogeny.crosscoder.sweep import Sweep
from ontogeny.crosscoder.trainer import Rows, log_row, open_rows, run_fingerprint, write_run
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
    """Train runs that differ in latents, coefficient and name alone, and write the files of each.

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
    sweep = Sweep(runs, reader.steps, reader.d_model, statistics, reader.read(0).raw_BSD)
    rows: Rows = []
    saved = states.load()
    if saved is not None:
        sweep.load_state(saved.step, saved.tensors)
        rows = saved.rows
        log.info("goes on from step %d of %d, saved in %s", saved.step, reader.steps, states.folder)
    first_step = sweep.steps_done
    if first_step < reader.steps:
        _take_steps(sweep, reader, states, rows)
    for run, crosscoder in zip(runs, sweep.crosscoders, strict=True):
        own = [{key: text for key, text in row.items() if key != RUN} for row in rows if row[RUN] == run.run]
        write_run(out / run.run, run, crosscoder, reader.steps, own, study)
    states.remove()
    read = float((reader.steps - first_step) * runs[0].batch_size)
    return {"rows": read, "rows x runs": read * len(runs)}


def _take_steps(sweep: Sweep, reader: Reader, states: StateFolder, rows: Rows) -> None:
    """Take every step that is left, append to `rows`, and save the state now and then."""
    settings, last = sweep.runs[0], reader.steps
    rows_left = (last - sweep.steps_done) * settings.batch_size
    with stop_requests() as asked, closing(reader.batches(sweep.steps_done)) as batches:
        for batch in progress(batches, rows_left, "rows", lambda _: settings.batch_size):
            number = batch.step + 1
            logged = number in (1, last) or number % settings.log_every == 0
            measured = sweep.step(batch.raw_BSD, logged)
            stops = asked()
            saves = stops or (number % settings.save_every == 0 and number < last)
            if logged or saves:
                _check_finite(sweep, reader, states)
            rows += [{RUN: run.run, **log_row(row)} for run, row in zip(sweep.runs, measured, strict=bool(measured))]
            if saves:
                states.save(SavedState(number, sweep.state(), rows))
            if stops:
                log.info("stopped on request at step %d of %d; the state is in %s", number, last, states.folder)
                raise Interrupted


def _check_finite(sweep: Sweep, reader: Reader, states: StateFolder) -> None:
    """Refuse to go on after a loss or a gradient that was not finite."""
    faulty = int(sweep.first_faulty)
    if faulty < 0:
        return
    names = [run.run for run, is_faulty in zip(sweep.runs, sweep.faulty_R.tolist(), strict=True) if is_faulty]
    raise UserError(
        f"step {faulty + 1} of {reader.steps}: the loss or its gradient is not finite in {len(names)} of "
        f"{len(sweep.runs)} runs, first of all {names[0]}, on rows {reader.describe(faulty)}; look at these rows or "
        f"lower the dictionary's learning_rate ({sweep.runs[0].learning_rate:g}); states saved before are kept in "
        f"{states.folder}"
    )
