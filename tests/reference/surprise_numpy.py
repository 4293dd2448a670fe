"""The slow, obvious oracle of the surprise: one record at a time, every distance by its definition, in float64 and plain NumPy.

Takes only learned numbers (state dicts) and the manifest's features; complete records and records with gaps alike.
"""

import numpy as np

from tests.reference import elbo_numpy

FLOOR, LIMIT, WEIGHTS, FILLED, PRESENT_LEAST = 1e-3, 1e9, (0.75, 1.0, 0.7, 1.0, 1.5), 0.5, 0.5


def record_surprise(features, x, fitted, nets, memory, centres, regressions, presence, lines, sigma):
    """(score, contributions (F,)) of one record x (C,). lines: of the terms and the sum; what comes before: dicts."""
    y, seen = elbo_numpy.encode(features, x, fitted)
    scale = 1 / max(1 - np.isnan(x).mean(), PRESENT_LEAST)
    error = np.mean([elbo_numpy.record_elbo(features, x, fitted, net, sigma)[0] for net in nets], axis=0) * scale
    out = np.mean([elbo_numpy.record_out(features, x, fitted, net) for net in nets], axis=0)
    columns = elbo_numpy.columns_of(features)
    numbers = np.array([x[columns[i]] for i, f in enumerate(features) if f.kind == "numeric"])
    own = slice(len(numbers), None)
    away = np.clip((numbers - fitted["origin"][own]) / fitted["unit"][own], -LIMIT, LIMIT)
    bent = np.sign(away) * ((1 + np.abs(away)) ** (1 / 8) - 1)
    near = view(np.concatenate([bent, y[own]]), seen, out, memory, np.inf)
    near = whitened(near, ~seen, memory)
    wide = view(np.concatenate([numbers, y[own]]), seen, out, centres, 10)
    counts = np.where(seen, scale, FILLED * (1 - memory["level"]))
    parts = [error, memory_parts(near, counts, ~seen, memory), centre_parts(wide, counts, ~seen, centres)]
    each = list(zip(parts, lines, WEIGHTS, strict=False))
    told = [weight * surprise(np.log(max(part.sum(), line.floor)), line) ** 2 for part, line, weight in each]
    shared = [share(s, part, line.floor) for s, (part, line, _) in zip(told, each, strict=True)]
    nats = presence_nats(y, presence)
    told.append(WEIGHTS[4] * (nats**2).sum())
    shared.append(share(told[-1], nats**2 @ presence["ownership"] / np.sqrt((nats**2).sum()), FLOOR))
    sides = regression_parts(numbers, y, ~seen, regressions)
    blamed = sides * (sum(shared) + FLOOR)
    told.append(WEIGHTS[3] * sides.sum() ** 2)
    shared.append(share(told[-1], blamed * sides.sum() / max(blamed.sum(), 1e-30), FLOOR))
    score = surprise(np.sqrt(sum(told)), lines[-1])
    return score, share(score, sum(shared), FLOOR)


def view(values, seen, out, fitted, far):
    """(D,) values in a view, 0 being the mean, and in a gap what the nets' output (D,) stands for there."""
    there = np.clip((values - fitted["centre"]) * fitted["rate"], -far, far)
    return np.where(seen, there, out * fitted["slope"] + fitted["offset"])


def whitened(values, missing, fitted):
    """(D,) values of a view, of which the missing ones have gone against the slope of the oddness, multiplied by the matrix."""
    for step in fitted["steps"]:
        values = values - missing * step * (values @ fitted["inverse"])
    return values @ fitted["matrix"]


def memory_parts(values, counts, missing, memory):
    """(F,) each feature's part of the mean weighted distance to the nearest records, of k the nearest counting k times, the next
    k - 1 times, and so on; their parts are those of the plain mean."""
    gaps = (values - memory["records"]) ** 2
    trust = memory["trust"] if len(memory["trust"]) else np.ones_like(gaps)
    exact = gaps * counts * trust + missing * memory["unknown"]
    known = gaps * (1 - missing * memory["level"])
    near = np.argsort(memory["weight"] * known.sum(1))[: memory["candidates"]]
    distance = {i: np.sqrt(memory["weight"][i] * exact[i].sum()) for i in near}
    parts, nearest = np.zeros(memory["ownership"].shape[1]), sorted(distance, key=distance.get)[: memory["neighbours"]]
    for i in nearest:
        parts += distance[i] / max(exact[i].sum(), 1e-24) * exact[i] @ memory["ownership"]
    k = len(nearest)
    value = sum((k - place) * distance[i] for place, i in enumerate(nearest)) / (k * (k + 1) / 2)
    return parts * value / max(parts.sum(), 1e-12)


def centre_parts(values, counts, missing, centres):
    """(F,) each feature's part of the distance to the nearest centre, whose scatter is all features' alike."""
    gaps = (values - centres["centres"]) ** 2
    nearest = int(np.argmin(gaps.sum(1) + centres["scatter"]))
    exact = gaps[nearest] * counts + missing * centres["unknown"]
    parts = exact @ centres["ownership"] + centres["scatter"][nearest] / centres["ownership"].shape[1]
    return parts / np.sqrt(parts.sum())


def regression_parts(numbers, y, missing, told):
    """(F,) each feature's part of how far the farthest number is from what the others tell; half is theirs."""
    standard = y[: len(numbers)].copy()
    for k, place in enumerate(told["standard.amount"].astype(int)):
        away = np.clip(numbers[place] / told["standard.unit"][k], -LIMIT, LIMIT)
        bent = np.sign(away) * ((1 + abs(away)) ** (1 / 8) - 1)
        standard[place] = 0 if missing[place] else (bent - told["standard.centre"][k]) / told["standard.scale"][k]
    seen = np.clip(np.concatenate([standard, y[len(numbers) :]]), -3, 3)
    away = np.abs(standard - seen @ told["weight"] - told["bias"]) / (told["most"] + missing @ told["doubt"])
    share = (away / max(away.max(), 1e-30)) ** 8
    share = share / max(share.sum(), 1e-30)
    pulls = np.abs(seen - told["mean"]) * (share @ told["pull"])
    parts = share @ told["ownership"] + pulls @ told["slot_ownership"] / max(pulls.sum(), 1e-30)
    return parts / 2 * max(away.max() - told["begin"], 0) * told["slope"]


def presence_nats(y, presence):
    """(J,) -log p of whether each column's value is missing, by the slots y (D,) of the others."""
    logit = 15 * np.tanh((np.clip(y, -3, 3) @ presence["weight"] + presence["bias"]) / 15)
    return np.log1p(np.exp(np.where(y[presence["place"].astype(int)] > 0, -logit, logit)))


def surprise(value, line):
    """-log of the tail probability: a broken line through knots, the last piece endless."""
    told = line.least
    for k, slope in enumerate(line.slopes):
        end = line.knots[k + 1] if k + 1 < len(line.knots) else np.inf
        told += slope * max(0.0, min(value, end) - line.knots[k])
    return told


def share(score, parts, floor):
    return (parts + floor / len(parts)) * score / (parts.sum() + floor)
