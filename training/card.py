"""The model card in words: what a model is for, how it judges, what it cannot see; data, settings and libraries as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.manifest import KL, Feature, Manifest
from service.rules import in_words
from service.session import Answers
from training.metrics import false_alarm_band
from training.svg import cut, escape, short

LONGEST = 80  # letters of a name
MOST = 300  # rows of a table, lines of a list
UNUSUAL = 20
WEIGHTY = 10
FRESH = 10_000

SCORES = {
    "surprise": (
        "The score is a surprise, in nats. Several small variational autoencoders, each trained without one part of the "
        "records, give a reconstruction error; a memory of training records gives the distance to the nearest of them, and their "
        "centres the distance to what is common. Where the other columns tell what a number should be, how far it is off is one "
        "more term, so is how unlikely it is which values are missing, and so are rules that every training record keeps. "
        "Each of these terms becomes −log of its tail probability among normal records that it was not fitted to; their "
        "weighted squares are added, the nets' and the centres' with less weight than the memory's, and the score is −log of the "
        "tail probability of the root of that sum. A score of 4.6 nats is "
        "reached by about one normal record in a hundred, in every model alike."
    ),
    "elbo": (
        "The score is the negative evidence lower bound in nats, the mean over several small variational autoencoders, each "
        "trained without one part of the records: how improbable the record is under the model, reconstruction error and "
        "latent term together. Its level depends on the features, so scores of different models cannot be compared; p-values "
        "can."
    ),
    "reconstruction": (
        "The score is the reconstruction error in nats, the mean over several small variational autoencoders, each trained "
        "without one part of the records: how badly each value is told from the others. Its level depends on the features, so "
        "scores of different models cannot be compared; p-values can."
    ),
}

LIMITS = (
    (
        "It knows what is usual, not what is bad: a rare but honest record is flagged, and a fraud that looks like any other "
        "record is not."
    ),
    "What was in the training records counts as normal. If anomalies were among them, more of their kind may pass.",
    (
        "Each record is judged alone. Repetition, order, rates over time and relations between records are invisible unless a "
        "column tells them."
    ),
    (
        "The false-alarm rate holds as long as normal records come from the same source as those that calibrate. When the "
        "process changes, compare the share of flagged records with what was asked, and train again on recent records."
    ),
    (
        "It holds on average over all normal records, not within every group of them: a small group that training saw little "
        "of may be flagged far more often. Check the groups that matter before people are affected."
    ),
    (
        "Of a datetime only hour, weekday and month are seen: no year, no trend, no holiday. A category that training did not "
        "see is unknown, whatever its name, and of a column with many categories the rarest share one place in the nets."
    ),
    (
        "Contributions tell where the model sees the record stand out. They are no cause, and where features go together the "
        "blame may fall on either."
    ),
)


class Looked(NamedTuple):
    """Records that were taken for normal, each judged without itself."""

    score: NDArray[np.float32]  # (n,)
    contributions: NDArray[np.float32]  # (n, T)
    rows: NDArray[np.intp]  # (n,) where in the table they are, counted from 1
    of: int  # how many there are; a very large table's are not all looked at


def words(manifest: Manifest) -> str:
    """Purpose, score, p-values and limits, as HTML."""
    n = len(manifest.calibration.scores)
    honest = "were held out" if manifest.calibration.held_out else "trained, each judged without itself"
    low, high = false_alarm_band(n, FRESH, manifest.alpha)
    return f"""<section id="card"><h2>Model card</h2>
<h3>What it is for</h3>
<p>{name(manifest.name)} tells how far a record with the columns below is from the normal records that it was trained on, and
flags those that are farthest, with the columns that make them so. It is meant to choose which records a person or a further
rule looks at. It is not meant to decide about people by itself, nor for tables of another origin, even with the same
columns.</p>
<h3>How the score is made</h3>
<p>{SCORES[manifest.score_kind]} High is anomalous. The same record always has the same score.</p>
<h3>What a p-value means</h3>
<p>p = (1 + number of calibration scores at or above the record’s) / (n + 1), with n = {n:,} normal records that
{honest}.
If new normal records are like those, a share of about α at most has p ≤ α on average, so flagging
p ≤ {short(manifest.alpha)} gives
false alarms for at most {short(100 * manifest.alpha)} % of them on average. Since the {n:,} records are themselves drawn by
chance, {round(low * FRESH):,} to {round(high * FRESH):,} of {FRESH:,} fresh normal records will be flagged in 95 of 100 cases.
No p-value is below {short(1 / (n + 1))}. A p-value is not the probability that a record is normal.</p>
<h3>Limits</h3>
<ul>{"".join(f"<li>{limit}</li>" for limit in LIMITS)}</ul></section>"""


def data(manifest: Manifest) -> str:
    """Features, columns left out, warnings and where the data came from, as HTML."""
    kinds = [feature.kind for feature in manifest.features]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    rows = [(name(f.name), f.kind, _values(f), f"{short(100 * f.missing_rate)} %") for f in manifest.features[:MOST]]
    parts = [
        f'<section id="data"><h2>Data</h2><p>{len(kinds)} features: {counts}.</p>',
        table("Features", ("Feature", "Kind", "Values in training", "Missing"), rows),
        _more(len(manifest.features)),
    ]
    if manifest.dropped:
        left = [(name(dropped.column), escape(dropped.reason)) for dropped in manifest.dropped[:MOST]]
        parts += ["<h3>Columns left out</h3>", table("Columns left out", ("Column", "Why"), left), _more(len(manifest.dropped))]
    if manifest.warnings:
        warnings = "".join(f"<li>{escape(cut(warning, 1_000))}</li>" for warning in manifest.warnings[:MOST])
        parts += [f"<h3>Warnings</h3><ul>{warnings}</ul>", _more(len(manifest.warnings))]
    told = manifest.training.get("data")
    seen = {} if not isinstance(told, Mapping) else dict(told)
    seen |= {key: value for key, value in manifest.training.items() if key not in ("settings", "data", "told_by_others")}
    parts += _facts("Where the data came from", seen)
    return "".join(parts) + "</section>"


def rules(manifest: Manifest) -> str:
    """What held for every training record, as HTML; nothing where nothing did."""
    told = in_words(manifest.rules, manifest.features)
    if not told:
        return ""
    lines = "".join(f"<li>{escape(cut(rule, 1_000))}</li>" for rule in told[:MOST])
    return f"""<section id="rules"><h2>Rules that the training records keep</h2>
<p>A record that breaks one is odd for that. Look whether they are rules of your world, and not of this table alone.</p>
<ul>{lines}</ul>{_more(len(told))}</section>"""


def told(manifest: Manifest) -> str:
    """The numbers that the other features tell, as HTML; nothing where there is none."""
    shares = manifest.training.get("told_by_others")
    if not isinstance(shares, Mapping) or not shares:
        return ""
    rows = [(name(feature), f"{100 * share:.0f} %") for feature, share in list(shares.items())[:MOST]]
    heading, columns = "Numbers that the others tell", ("Feature", "Of its variance")
    return f"""<section id="told"><h2>{heading}</h2>
<p>How much of each number the other features tell, in records that this was not learned from. A record is odd for a number that
is far from what they tell, and that is what is expected of it, whatever it is.</p>
{table(heading, columns, rows)}{_more(len(shares))}</section>"""


def settings(manifest: Manifest) -> str:
    """All settings of the fit, metrics and library versions, as HTML."""
    told = manifest.training.get("settings")
    parts = ['<section id="settings"><h2>Settings and versions</h2>']
    parts += _facts("Settings", told if isinstance(told, Mapping) else {})
    parts += _facts("Metrics", manifest.metrics) + _facts("Libraries", manifest.libraries)
    return "".join(parts) + "</section>"


def weights(manifest: Manifest, held: Answers, anomalies: Answers | None) -> str:
    """The ten features with the largest mean contribution to the score, as HTML."""
    groups = [("Calibration records", held.contributions)]
    flagged = held.contributions[held.score >= manifest.threshold] if len(held.contributions) else held.contributions
    groups.append(("Those of them that are flagged", flagged))
    if anomalies is not None:
        groups.append(("Labelled anomalies", anomalies.contributions))
    groups = [(title, part) for title, part in groups if len(part)]
    if not groups:
        return ""
    means = [np.asarray(part, np.float64).mean(axis=0) for _, part in groups]
    order = np.argsort(-means[-1], kind="stable")[:WEIGHTY]
    rows = [(_term(manifest, t), *(short(float(mean[t])) for mean in means)) for t in order]
    note = f"Mean contribution to the score, in nats: the {len(order)} of {len(manifest.terms)} largest by the last column."
    head = ("Feature", *(f"{title} ({len(part):,})" for title, part in groups))
    title = "Features with most weight"
    return f'<section id="weights"><h2>{title}</h2><p>{note}</p>{table(title, head, rows)}</section>'


def unusual(manifest: Manifest, looked: Looked) -> str:
    """The records that look least normal, and where in the table they are, as HTML."""
    order = np.lexsort((looked.rows, -looked.score))[:UNUSUAL]
    body = []
    for i in order:
        told = looked.contributions[i] if len(looked.contributions) else np.zeros(0, np.float32)
        largest = [t for t in np.argsort(-told, kind="stable")[:3].tolist() if told[t] > 0]
        reasons = ", ".join(f"{_term(manifest, t)} {short(float(told[t]))}" for t in largest)
        flagged = "yes" if looked.score[i] >= manifest.threshold else "no"
        body.append((f"{int(looked.rows[i]):,}", short(float(looked.score[i])), flagged, reasons or "–"))
    n, title = len(looked.score), "Least normal records"
    these = f"All {n:,}" if n == looked.of else f"{n:,} of the {looked.of:,}"
    drawn = "" if n == looked.of else ", those that calibrate and as many others as the memory is chosen from, drawn at random"
    head = ("Row", "Score", "Flagged", "Largest contributions, in nats")
    return f"""<section id="unusual"><h2>{title}</h2>
<p>{these} records that were taken for normal were looked at{drawn}; each was judged without itself. Rows are counted from 1 below
the header, over all files in the order of their names and whatever their label. A record that is not normal should leave the
training table: take it out, or label it, and train again. Records that are alike hide each other's reason: each is the other's
nearest neighbour, so that what is odd in both contributes little.</p>{table(title, head, body)}</section>"""


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells of HTML; the first of a row is its header. It scrolls by itself where the page is narrow."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>' for row in rows)
    return (
        f'<div class="table" role="region" tabindex="0" aria-label="{escape(caption)}"><table><thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def name(text: str) -> str:
    """A column's name, as HTML that keeps its direction of reading to itself."""
    return f"<bdi>{escape(cut(text, LONGEST))}</bdi>"


def _term(manifest: Manifest, place: int) -> str:
    term = manifest.terms[place]
    return "latent term" if term == KL and place == len(manifest.features) else name(term)


def _values(feature: Feature) -> str:
    if feature.kind == "numeric" and feature.low is not None and feature.high is not None:
        return f"{short(feature.low)} to {short(feature.high)}{', whole' if feature.integer else ''}"
    if feature.kind == "categorical":
        some = ", ".join(name(cut(str(category), 24)) for category in feature.categories[:4])
        return f"{len(feature.categories):,}: {some}{', …' if len(feature.categories) > 4 else ''}"
    return "true, false" if feature.kind == "boolean" else "hour, weekday, month" if feature.kind == "datetime" else "–"


def _facts(title: str, facts: Mapping[str, Any]) -> list[str]:
    """A table of a nested mapping, folded away where it is long; nothing for an empty one."""
    rows = [(name(key), escape(cut(value, 1_000))) for key, value in _flat(facts)]
    if not rows:
        return []
    body = table(title, ("What", "Value"), rows[:MOST]) + _more(len(rows))
    return [f"<details{' open' if len(rows) <= 12 else ''}><summary>{escape(title)}</summary>{body}</details>"]


def _flat(facts: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """(name, text) of each leaf; a list of plain values is one."""
    if isinstance(facts, Mapping):
        for part, value in facts.items():
            yield from _flat(value, f"{key} · {part}" if key else str(part).replace("_", " "))
    elif isinstance(facts, list | tuple) and any(isinstance(value, Mapping | list | tuple) for value in facts):
        for place, value in enumerate(facts, start=1):
            yield from _flat(value, f"{key} {place}")
    elif isinstance(facts, list | tuple):
        yield key, ", ".join(map(str, facts)) or "none"
    elif isinstance(facts, int) and not isinstance(facts, bool):
        yield key, f"{facts:,}"
    elif isinstance(facts, float):
        yield key, f"{facts:.6g}"
    else:
        yield key, "–" if facts is None else str(facts)


def _more(n: int) -> str:
    return f"<p>{n - MOST:,} more are in the manifest.</p>" if n > MOST else ""
