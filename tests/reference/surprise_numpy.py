"""The slow, obvious oracle of the surprise: one record at a time, every distance by its definition, in float64 and plain NumPy.

Takes only learned numbers (state dicts) and the manifest's features; complete records and records with gaps alike.
"""

import numpy as np

from tests.reference import elbo_numpy

FLOOR, WEIGHTS = 1e-3, (0.75, 1.0, 0.75)
BENT_MOST = (1 + 1e9) ** (1 / 8) - 1


def unbend(v):
    v = np.clip(v, -BENT_MOST, BENT_MOST)
    return np.sign(v) * ((1 + np.abs(v)) ** 8 - 1)


def record_surprise(features, x, fitted, nets, memories, lines, sigma):
    """(score, contributions (F,)) of one record x (C,). memories: dicts; lines: of each term and of their sum."""
    y, seen = elbo_numpy.encode(features, x, fitted)
    scale = len(x) / max(len(x) - np.isnan(x).sum(), 1)
    error = np.mean([elbo_numpy.record_elbo(features, x, fitted, net, sigma)[0] for net in nets], axis=0) * scale
    out = np.mean([elbo_numpy.record_out(features, x, fitted, net) for net in nets], axis=0)
    reals = 2 * len(fitted["cyclic"]) + len(fitted["numeric"])
    filled = np.where(seen, y, np.where(np.arange(len(y)) < reals, out, 0))
    parts = [error] + [distance_parts(filled, seen * scale, fitted, memory) for memory in memories]
    each = [(part, line, weight) for part, line, weight in zip(parts, lines, WEIGHTS, strict=False)]
    told = [weight * surprise(np.log(max(part.sum(), line.floor)), line) for part, line, weight in each]
    shared = [share(s, part, line.floor) for s, (part, line, _) in zip(told, each, strict=True)]
    joint = sum(told)
    score = surprise(joint, lines[-1])
    return score, share(score, sum(shared), FLOOR)


def distance_parts(filled, counts, fitted, memory):
    """(F,) each feature's part of the mean weighted distance to the nearest records."""
    numerics = len(fitted["numeric"])
    values = filled.copy()
    values[:numerics] = unbend(values[:numerics] * fitted["scale"] + fitted["centre"])
    if not memory["wide"]:
        away = (values[:numerics] - memory["origin"]) / memory["unit"]
        values[:numerics] = np.sign(away) * ((1 + np.abs(away)) ** (1 / 8) - 1)
    values = values / memory["size"] - memory["centre"]
    if memory["wide"]:
        values = np.clip(values, -10, 10)
    weight = memory["weight"]
    gaps = (values - memory["records"]) ** 2
    nearest = np.argsort(weight * np.sqrt(gaps.sum(1)))[: memory["neighbours"]]
    parts = np.zeros(memory["ownership"].shape[1])
    for i in nearest:
        gap = gaps[i] * counts
        parts += weight[i] / max(np.sqrt(gap.sum()), 1e-12) / len(nearest) * gap @ memory["ownership"]
    return parts


def surprise(value, line):
    """-log of the tail probability: a broken line through knots, the last piece endless."""
    told = line.least
    for k, slope in enumerate(line.slopes):
        end = line.knots[k + 1] if k + 1 < len(line.knots) else np.inf
        told += slope * max(0.0, min(value, end) - line.knots[k])
    return told


def share(score, parts, floor):
    return (parts + floor / len(parts)) * score / (parts.sum() + floor)
