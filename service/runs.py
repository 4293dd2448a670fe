"""A run of the graph: from the records of one request, or of several, to the bodies of answers, and what metrics learn of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from time import monotonic, perf_counter

import numpy as np
from numpy.typing import NDArray

from service.batch import Batch, Change
from service.calibration import UnsupportedAlphaError, rounded_up
from service.detector import Scores
from service.errors import FieldError, Problem, not_scorable
from service.live import Live


@dataclass(slots=True)
class Answer:
    """The body of a 200, and what it cost."""

    body: bytes
    records: int
    anomalies: int
    began: float  # when scoring began
    inference: float  # seconds
    head: int = 0  # bytes of JSON before the tensors of a binary answer


@dataclass(slots=True)
class Observed:
    """What the metrics learn of a run. Counted on the event loop, wherever it ran."""

    score: NDArray[np.float32]
    p_value: NDArray[np.float64]
    anomalies: int
    warnings: dict[str, int]


def answered(
    body: bytes, scores: Scores, began: float, inference: float, warnings: dict[str, int], head: int = 0
) -> tuple[Answer, Observed]:
    """A body and what it says, for the client and for the metrics."""
    anomalies = int(np.count_nonzero(scores.is_anomaly))
    return (
        Answer(body, len(scores.score), anomalies, began, inference, head),
        Observed(scores.score, scores.p_value, anomalies, warnings),
    )


def answer(live: Live, batch: Batch, *, lines: bool = False) -> tuple[Answer, Observed]:
    """The answer to one request, or as `lines` to a block of a stream. Raises the Problem that says why there is none."""
    began = perf_counter()
    scores = score(live, batch)
    inference = perf_counter() - began
    body, warnings = live.writer.lines(batch, scores) if lines else live.writer.write(batch, scores)
    note(live, batch, scores)
    return answered(body, scores, began, inference, warnings)


def answer_together(live: Live, batches: Sequence[Batch]) -> tuple[list[Answer], Observed]:
    """The answers to several requests of records, all with the default options, from one run."""
    began = perf_counter()
    rows = [row for batch in batches for row in batch.rows]
    joined = Batch(np.concatenate([batch.x for batch in batches]), rows, False, all(batch.normal for batch in batches))
    if not joined.normal:
        joined.changed = _changed(batches)
    scores = score(live, joined)
    inference = perf_counter() - began
    results, warnings = live.writer.records(joined, scores)
    note(live, joined, scores)
    head, flags, answers, start = live.writer.head(scores), scores.is_anomaly.tolist(), [], 0
    for batch in batches:
        stop = start + len(batch.rows)
        body = b"%b[%b]}" % (head, b",".join(results[start:stop]))
        answers.append(Answer(body, stop - start, sum(flags[start:stop]), began, inference))
        start = stop
    return answers, Observed(scores.score, scores.p_value, sum(flags), warnings)


def _changed(batches: Sequence[Batch]) -> list[Change]:
    """What has changed in batches of records, by the rows of all of them."""
    starts = accumulate((len(batch.rows) for batch in batches), initial=0)
    return [
        (start + row, column, code) for start, batch in zip(starts, batches, strict=False) for row, column, code in batch.changed
    ]


def count(live: Live, observed: Observed) -> None:
    """Counts a run."""
    live.counts.count(observed.score, observed.p_value, observed.anomalies, observed.warnings)


def score(live: Live, batch: Batch) -> Scores:
    """The scores of a batch, by which health knows the model to work. Raises the 422 of an unsupported alpha."""
    try:
        scores = live.detector.score(batch.x, batch.alpha, batch.fdr, batch.explain)
    except UnsupportedAlphaError as error:
        problem = FieldError("alpha", f"must be at least {rounded_up(error.smallest)}")
        raise Problem("unsupported_alpha", f"{error}.", [problem], smallest_alpha=error.smallest) from None
    except Exception:
        live.failed = True  # /health will ask the model itself before it says that all is well
        live.counts.failed_batches += 1  # here, not on the event loop: the batch that fails has no Observed
        raise
    live.scored_at, live.failed = monotonic(), False
    return scores


def note(live: Live, batch: Batch, scores: Scores) -> None:
    """Leaves what is to be answered to those who look at live records. Of a run that is refused they learn nothing: its records
    may be scored again, each request's alone.
    """
    if live.shadow is not None:
        live.shadow.offer(batch.x, scores.p_value)
    live.watch.note(batch.x, scores.score)
    if len(scores.explained):
        live.latest.note(batch.x, scores)


def score_finite(live: Live, batch: Batch) -> Scores:
    """As score and note, for an answer that has no way to leave a score out. Raises the 422 of records without a finite
    one, too."""
    scores = score(live, batch)
    if not np.isfinite(scores.score).all():
        raise not_scorable([f"records[{row}]" for row in np.flatnonzero(~np.isfinite(scores.score))])
    note(live, batch, scores)
    return scores
