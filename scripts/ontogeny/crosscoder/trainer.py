"""Training a run of a dictionary: data, model, steps, log, state, files."""

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import pandas as pd

from ontogeny.activations.reader import Reader
from ontogeny.activations.statistics import SiteStatistics, read_statistics
from ontogeny.command import progress
from ontogeny.config.dictionaries import RunSettings
from ontogeny.crosscoder.between_steps import between_steps
from ontogeny.crosscoder.gathering import gather, hand_out
from ontogeny.crosscoder.model import Crosscoder, save_crosscoder
from ontogeny.crosscoder.parallel import ALONE, Ranks
from ontogeny.crosscoder.state import Interrupted, SavedState, StateFolder, stop_requests
from ontogeny.crosscoder.step import Stepper
from ontogeny.densities import COLUMNS, MOMENT
from ontogeny.errors import UserError
from ontogeny.files import atomic_folder, write_csv
from ontogeny.provenance import provenance

log = logging.getLogger("ontogeny")

SECONDS_BETWEEN_LINES = 10.0
"""How often the log of the command says how training goes."""

Rows = list[dict[str, str]]
"""Rows of `training.csv`, and of `density.csv` among them, as text."""


def train(
    settings: RunSettings,
    activations: Path,
    state: Path,
    out: Path,
    study: Path | None = None,
    fingerprint: str = "",
    ranks: Ranks = ALONE,
) -> dict[str, float]:
    """Train one run and write `crosscoder.safetensors`, `config.json`, `training.csv` and `density.csv`.

    On a CPU their bytes depend on the settings, the activations, the code and the number of processes alone, however
    often the run was killed. A run may go on with another number of processes than it was begun with.

    Args:
        settings: the run.
        activations: the study's `activations/`.
        state: folder of the training state, for this run alone; removed at the end.
        out: folder of the run, which appears whole or not at all.
        study: the study's `study.json`, or None.
        fingerprint: stands for the code; a state that was saved under another one is not gone on with.
        ranks: the processes that train the run, each of which calls this; the first one writes the files.

    Returns:
        Rows that all processes together trained on.

    Raises:
        UserError: a shard is missing or damaged, the loss is not finite, or the run cannot be divided like this.
        Interrupted: SIGTERM has arrived at one of the processes; the state is saved.
        LostRank: another process has ended, and has said why.
    """
    with ranks.one_error():
        reader = open_rows(settings, activations, ranks)
        statistics = [read_statistics(activations / site.key / "statistics.json") for site in settings.sites]
    _check_alignment(reader, ranks)
    stepper = Stepper(settings, reader.steps, reader.d_model, statistics, ranks)
    states = StateFolder(state, run_fingerprint([settings], reader, statistics, fingerprint))
    rows = _begin(stepper, reader, states)
    first_step = stepper.steps_done
    if first_step < reader.steps:
        _take_steps(stepper, reader, states, rows)
    crosscoder = stepper.whole_crosscoder()
    if crosscoder is not None:
        write_run(out, settings, crosscoder, stepper.steps, rows, study)
    if ranks.first:
        states.remove()
    return {"rows": float((reader.steps - first_step) * settings.batch_size)}


def open_rows(settings: RunSettings, activations: Path, ranks: Ranks = ALONE) -> Reader:
    """Open the training rows at the sites of this process.

    Raises:
        UserError: a shard is missing or damaged, there are more or fewer rows than the study counts, or the processes
            cannot divide sites and rows like this.
    """
    sites, batch_size = settings.sites, settings.batch_size
    if ranks.site_ranks > len(sites):
        raise UserError(
            f"{settings.dictionary}: {len(sites)} sites are too few for {ranks.site_ranks} processes; start fewer, or "
            "divide the rows of a batch among more of them by --data-ranks"
        )
    if batch_size % ranks.data_ranks:
        raise UserError(f"--data-ranks {ranks.data_ranks}: it does not divide the dictionary's batch_size {batch_size}")
    own_sites, own_rows = sites[ranks.own_sites(len(sites))], ranks.own_rows(batch_size)
    reader = Reader(activations, own_sites, settings.shards, batch_size, settings.epochs, settings.seed, own_rows)
    if reader.rows != settings.rows:
        raise UserError(
            f"{activations}: {len(settings.shards)} shards hold {reader.rows} rows, but the study counts "
            f"{settings.rows}; delete the shards that are out of date and run again"
        )
    return reader


def _check_alignment(reader: Reader, ranks: Ranks) -> None:
    """Refuse sites of different processes with different rows or widths; those of one process are the reader's."""
    everyones = ranks.everyones((reader.sites[0].key, reader.d_model, reader.rows_of_shards, reader.rows_hashes))
    with ranks.one_error():
        for site, *described in everyones:
            if described != list(everyones[0][1:]):
                raise UserError(
                    f"{reader.folder}: rows or widths of {site} are not those of {everyones[0][0]}; sites of one "
                    "dictionary share both: delete the shards that are out of date and run again"
                )


def _begin(stepper: Stepper, reader: Reader, states: StateFolder) -> Rows:
    """Go on from the last state, or draw the first weights; return the rows of the training log so far."""
    sites, ranks = len(stepper.settings.sites), stepper.ranks
    saved = hand_out(states.load() if ranks.first else None, stepper.site_axes, sites, ranks)
    if saved is None:
        stepper.initialise(reader.read(0).raw_BSD)
        return []
    stepper.load_state(saved.step, saved.tensors)
    log.info("goes on from step %d of %d, saved in %s", saved.step, reader.steps, states.folder)
    return saved.rows


def _save(stepper: Stepper, states: StateFolder, rows: Rows) -> None:
    """Save the state of all processes as one process would save it; the first one holds all of it meanwhile."""
    tensors = gather(stepper.state(), stepper.site_axes, len(stepper.settings.sites), stepper.ranks)
    if stepper.ranks.first:
        states.save(SavedState(stepper.steps_done, tensors, rows))
    # A process that ended now would end the first one too, in the middle of its file.
    stepper.ranks.wait()


def _take_steps(stepper: Stepper, reader: Reader, states: StateFolder, rows: Rows) -> None:
    """Take every step that is left, append to `rows`, and save the state now and then."""
    settings, last, ranks = stepper.settings, reader.steps, stepper.ranks
    rows_left = (last - stepper.steps_done) * settings.batch_size
    told = start = time.monotonic()
    with stop_requests() as asked, closing(reader.batches(stepper.steps_done, asked)) as batches:
        shown = progress(batches, rows_left, "rows", lambda _: settings.batch_size)
        for batch in shown if ranks.first else batches:
            if ranks.agree(asked()):
                break
            number = batch.step + 1
            logged = number in (1, last) or number % settings.log_every == 0
            measured = stepper.step(batch.raw_BSD, logged)
            (densities,) = between_steps([stepper], reader)
            rows += densities
            saves = number % settings.save_every == 0 and number < last
            if logged or saves:
                _check_finite(stepper, reader, states)
            if measured:
                rows.append(log_row(measured))
            if measured and (number == last or time.monotonic() - told > SECONDS_BETWEEN_LINES):
                told = time.monotonic()
                _tell(measured, last, reader.seconds_waited / (told - start))
            if saves:
                _save(stepper, states, rows)
        else:
            if stepper.steps_done == last:
                return
            # Others may have rows for a step more.
            ranks.agree(True)
        _stop(stepper, reader, states, rows)


def _stop(stepper: Stepper, reader: Reader, states: StateFolder, rows: Rows) -> None:
    """Save the state because one of the processes was asked to stop."""
    _check_finite(stepper, reader, states)
    _save(stepper, states, rows)
    log.info("stopped on request at step %d of %d; the state is in %s", stepper.steps_done, reader.steps, states.folder)
    raise Interrupted


def _check_finite(stepper: Stepper, reader: Reader, states: StateFolder) -> None:
    """Refuse to go on after a loss or a gradient that was not finite."""
    faulty = int(stepper.first_faulty)
    if faulty < 0:
        return
    sites = stepper.faulty_sites(reader.read(faulty).raw_BSD)
    with stepper.ranks.one_error():
        raise UserError(
            f"step {faulty + 1} of {reader.steps}: the loss or its gradient is not finite at {', '.join(sites)}, "
            f"on rows {reader.describe(faulty)}; look at these rows or lower the dictionary's learning_rate "
            f"({stepper.settings.learning_rate:g}); states saved before are kept in {states.folder}"
        )


def _tell(measured: Mapping[str, float], last: int, waited: float) -> None:
    """Write a line to the command's log."""
    log.info(
        "step %d of %d: loss %.5g, FVU %.4f, L0 %.1f, dead %.1f %%; waited for data %.1f %% of the time",
        *(measured["step"], last, measured["loss"], measured["fvu"], measured["l0"]),
        *(100 * measured["dead"], 100 * waited),
    )


def log_row(measured: Mapping[str, float]) -> dict[str, str]:
    """Write a row of `training.csv`: counts whole, the rest with eight digits."""
    return {name: str(value) if isinstance(value, int) else f"{value:.8g}" for name, value in measured.items()}


def write_run(
    out: Path, settings: RunSettings, crosscoder: Crosscoder, steps: int, rows: Rows, study: Path | None
) -> None:
    """Write the files of a finished run.

    Args:
        out: folder of the run, which appears whole or not at all.
        settings: the run.
        crosscoder: what was trained, all sites of it.
        steps: steps that were taken.
        rows: rows of the training log.
        study: the study's `study.json`, or None.

    Raises:
        UserError: the disk is full.
    """
    description = {
        "dictionary": settings.dictionary,
        "run": settings.run,
        "sparsity": settings.sparsity_label,
        "coefficient": settings.sparsity,
        "seed": settings.seed,
        "shared_latents": settings.shared_latents,
        "tokens": steps * settings.batch_size,
        "study": None,
        **provenance(study),
    }
    with atomic_folder(out) as folder:
        save_crosscoder(folder, crosscoder, description)
        write_csv(folder / "training.csv", pd.DataFrame([row for row in rows if MOMENT not in row]))
        write_csv(folder / "density.csv", pd.DataFrame([row for row in rows if MOMENT in row], columns=list(COLUMNS)))


def run_fingerprint(
    runs: Sequence[RunSettings], reader: Reader, statistics: Sequence[SiteStatistics], code: str
) -> str:
    """Hash everything that decides the files: settings, rows, activations (by their statistics) and code."""
    parts = [*(run.model_dump_json(exclude={"save_every"}) for run in runs), *reader.rows_hashes, code]
    parts += [repr((site.rows, site.mean.tolist(), site.mean_norm, site.centered_norm)) for site in statistics]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
