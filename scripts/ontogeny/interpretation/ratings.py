"""Explanations, complexity and scores of features, as a table."""

import asyncio
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from ontogeny.command import log, progress
from ontogeny.config.interpretation import InterpretationSettings
from ontogeny.errors import UserError
from ontogeny.files import atomic
from ontogeny.interpretation.cache import Cache
from ontogeny.interpretation.costs import (
    DECISION_TOKENS,
    EXPLANATION,
    EXPLANATION_TOKENS,
    NOTHING,
    Requests,
    estimate,
)
from ontogeny.interpretation.dialogue import (
    TEMPLATES,
    Question,
    Reply,
    Subject,
    decision_question,
    explanation_question,
    replay,
)
from ontogeny.interpretation.endpoint import Endpoint
from ontogeny.interpretation.prompts import Rating, Window
from ontogeny.interpretation.scores import Score, score
from ontogeny.interpretation.windows import EXAMPLE
from ontogeny.provenance import provenance

ValueT = TypeVar("ValueT")

NO_MATTER = {"endpoint", "key", "concurrency", "timeout", "input_price", "output_price"}
"""Settings that change no answer."""

SCHEMA = pa.schema(
    [
        ("feature", pa.int32()),
        ("explanation", pa.string()),
        ("complexity", pa.int8()),
        *((test, pa.float64()) for test in TEMPLATES),
        *((f"{test}_{count}", pa.int32()) for test in TEMPLATES for count in Score._fields),
        ("problem", pa.string()),
    ]
)
"""Columns of `interpretations.parquet`: scores are balanced accuracies, with the windows that they are counted from;
`problem` says why something is missing."""


class Interpretation(NamedTuple):
    """What was said of a feature."""

    feature: int
    """Its number."""
    rating: Rating | None
    """What it stands for; None where no answer could be read."""
    scores: dict[str, Score]
    """Decisions, by test, of those that could be read."""
    problem: str | None
    """Why something is missing, such as `explanation: it is no JSON`."""


class _Judge:
    """A server and the answers that it gave before."""

    def __init__(self, cache: Cache, endpoint: Endpoint, concurrency: int) -> None:
        self._cache = cache
        self._endpoint = endpoint
        self._free = asyncio.Semaphore(concurrency)
        self.paid = NOTHING

    async def answer(self, question: Question[ValueT]) -> Reply[ValueT]:
        """Ask until an answer can be read, or was asked for in vain often enough."""
        while True:
            reply = replay(self._cache, question)
            if reply.unasked is None:
                return reply
            async with self._free:
                answer = await self._endpoint.ask(reply.unasked)
            self._cache.keep(reply.unasked, answer)
            self.paid = self.paid.plus(Requests(1, answer.input_tokens, answer.output_tokens))

    async def interpret(self, subject: Subject) -> Interpretation:
        """Explain a feature, and test the explanation."""
        rating = await self.answer(explanation_question(subject))
        if rating.value is None:
            return Interpretation(subject.feature, None, {}, f"explanation: {rating.problem}")
        scores, problem = {}, None
        for test in subject.tests:
            said = await self.answer(decision_question(subject, test, rating.value.explanation))
            if said.value is None:
                problem = problem or f"{test}: {said.problem}"
            else:
                scores[test] = score(subject.truth[test], said.value)
        return Interpretation(subject.feature, rating.value, scores, problem)


def write_interpretations(
    settings: InterpretationSettings, windows: Path, cache: Path, out: Path, study: Path | None
) -> dict[str, float]:
    """Let a language model explain, rate and be tested on the features of a run, and write one row for each.

    What it will cost is in the log before the first request, and what it did cost after the last one.

    Args:
        settings: the model and where it is.
        windows: `windows.parquet` of the run.
        cache: folder of the answers that were given before, and of new ones.
        out: the Parquet file.
        study: the study's `study.json`, or None.

    Returns:
        Features, those that were rated, requests, and tokens of questions and answers.

    Raises:
        UserError: the table is missing or damaged, the key is not set, answers cannot be kept, or the server cannot be
            reached, refuses a question or goes on failing; answers until then are kept.
    """
    if settings.endpoint is None or settings.model is None:
        raise UserError("interpretation: endpoint and model must be given; docs/configuration.md says what they hold")
    key = settings.api_key()
    subjects, metadata = read_subjects(windows)
    kept = Cache(cache, settings)
    kept.check()
    log.info("interpretation: %s", outlook(kept, subjects, settings))
    found, paid = asyncio.run(_interpret(settings, key, kept, subjects))
    log.info("interpretation: asked %s, as the server counts", paid.text(settings))
    for problem, count in Counter(said.problem for said in found if said.problem).most_common():
        log.info("interpretation: unread answers for %d features: %s", count, problem)
    chosen = settings.model_dump_json(exclude=NO_MATTER)
    labels = {**metadata, **provenance(study), "model": str(settings.model), "settings": chosen}
    with atomic(out) as temporary:
        pq.write_table(interpretations_table(found).replace_schema_metadata(labels), temporary)
    rated = sum(said.rating is not None for said in found)
    return {"features": len(found), "rated": rated, **{name: float(count) for name, count in paid._asdict().items()}}


async def _interpret(
    settings: InterpretationSettings, key: str | None, cache: Cache, subjects: list[Subject]
) -> tuple[list[Interpretation], Requests]:
    """Interpret all features, several at a time; the first error ends all."""
    async with Endpoint(settings, key) as endpoint:
        if warning := endpoint.readable_key():
            log.warning("%s", warning)
        judge = _Judge(cache, endpoint, settings.concurrency)
        tasks = [asyncio.create_task(judge.interpret(subject)) for subject in subjects]
        try:
            for task in progress(asyncio.as_completed(tasks), len(tasks), "features"):
                await task
        finally:
            for waiting in tasks:
                waiting.cancel()
            # Others may have failed at the same moment; nobody is to read of them as well.
            await asyncio.gather(*tasks, return_exceptions=True)
        return [task.result() for task in tasks], judge.paid


def outlook(cache: Cache, subjects: Iterable[Subject], settings: InterpretationSettings) -> str:
    """Say what is to be asked and what it will cost, apart from answers that cannot be read and are asked for again."""
    cached, due = 0, NOTHING
    for subject in subjects:
        rating = replay(cache, explanation_question(subject))
        cached += rating.answers
        if rating.unasked is not None:
            due = due.plus(estimate(rating.unasked, EXPLANATION_TOKENS))
        if rating.problem is not None:
            continue
        explanation = EXPLANATION if rating.value is None else rating.value.explanation
        for test, windows in subject.tests.items():
            said = replay(cache, decision_question(subject, test, explanation))
            cached += said.answers
            if said.unasked is not None:
                due = due.plus(estimate(said.unasked, DECISION_TOKENS * len(windows)))
    return f"{cached:,} answers are kept from before; still to ask, about: {due.text(settings)}"


def read_subjects(file: Path) -> tuple[list[Subject], dict[str, str]]:
    """Read features with their windows, and what the table says of itself.

    Raises:
        UserError: the table is missing or damaged.
    """
    try:
        table = pq.read_table(file)
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such table; run the rule 'windows'") from None
    except pa.ArrowInvalid as error:
        raise UserError(f"{file}: no Parquet table ({error}); remove it and run its rule again") from None
    missing = {"feature", "role", "number", "truth", "texts", "marks"} - set(table.column_names)
    if missing:
        raise UserError(f"{file}: column {min(missing)!r} is missing; run the rule 'windows' again")
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    rows: dict[int, dict[str, list[tuple[int, bool, Window]]]] = {}
    for row in table.to_pylist():
        window = Window(tuple(row["texts"]), tuple(row["marks"]))
        rows.setdefault(row["feature"], {}).setdefault(row["role"], []).append((row["number"], row["truth"], window))
    return [_subject(feature, rows[feature]) for feature in sorted(rows)], metadata


def _subject(feature: int, roles: dict[str, list[tuple[int, bool, Window]]]) -> Subject:
    ordered = {role: sorted(rows, key=lambda row: row[0]) for role, rows in roles.items()}
    # Where no window is true, or each is, no answer would give a score.
    tests = {test: ordered[test] for test in TEMPLATES if len({truth for _, truth, _ in ordered.get(test, ())}) == 2}
    return Subject(
        feature,
        tuple(window for *_, window in ordered[EXAMPLE]),
        {test: tuple(window for *_, window in rows) for test, rows in tests.items()},
        {test: tuple(truth for _, truth, _ in rows) for test, rows in tests.items()},
    )


def interpretations_table(found: Iterable[Interpretation]) -> pa.Table:
    """Lay interpretations out by `SCHEMA`."""
    records = []
    for said in found:
        rating = (None, None) if said.rating is None else (said.rating.explanation, said.rating.complexity)
        scores = [said.scores.get(test) for test in TEMPLATES]
        values = [None if own is None else own.balanced_accuracy for own in scores]
        counts = [count for own in scores for count in (own or [None] * len(Score._fields))]
        records.append((said.feature, *rating, *values, *counts, said.problem))
    columns = zip(*records, strict=True) if records else [()] * len(SCHEMA)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
    )
