"""The slow, obvious oracle of the surprise: one record at a time, every distance by its definition, in float64 and plain NumPy.

Takes only learned numbers (state dicts) and the manifest's features; complete records and records with gaps alike.
"""

import numpy as np

from tests.reference import elbo_numpy

BEND, FLOOR, NET_WEIGHT = 5.0, 1e-3, 0.75


def bend(v):
    return np.sign(v) * ((1 + np.abs(v)) ** (1 / 8) - 1) * 8


def record_surprise(features, x, fitted, nets, memories, surprises, sigma):
    """(score, contributions (F,)) of one record x (C,). memories and surprises: dicts of their learned numbers."""
    y, seen = elbo_numpy.encode(features, x, fitted)
    scale = len(x) / max(len(x) - np.isnan(x).sum(), 1)
    error = np.mean([elbo_numpy.record_elbo(features, x, fitted, net, sigma)[0] for net in nets], axis=0) * scale
    out = np.mean([elbo_numpy.record_out(features, x, fitted, net) for net in nets], axis=0)
    reals = 2 * len(fitted["cyclic"]) + len(fitted["numeric"])
    filled = np.where(seen, y, np.where(np.arange(len(y)) < reals, out, 0))
    parts = [error] + [distance_parts(filled, seen * scale, fitted, memory) for memory in memories]
    told = [surprise(part.sum(), one) for part, one in zip(parts, surprises, strict=False)]
    told[0] *= NET_WEIGHT
    shared = [share(s, part, one["floor"]) for s, part, one in zip(told, parts, surprises, strict=False)]
    joint = sum(told)
    score = surprise(joint, surprises[-1])
    return score, share(score, sum(shared), FLOOR)


def distance_parts(filled, counts, fitted, memory):
    """(F,) each feature's part of the mean weighted distance to the nearest records."""
    numerics = len(fitted["numeric"])
    values = filled.copy()
    if memory["bend"]:
        values[:numerics] = bend(BEND * (values[:numerics] * fitted["scale"] + fitted["centre"]))
    values = values / memory["size"] - memory["centre"]
    weight = memory["weight"][:, 0]
    gaps = (values - memory["records"]) ** 2
    nearest = np.argsort(weight * np.sqrt(gaps.sum(1)))[: memory["neighbours"]]
    parts = np.zeros(memory["ownership"].shape[1])
    for i in nearest:
        gap = gaps[i] * counts
        parts += weight[i] / max(np.sqrt(gap.sum()), 1e-12) / len(nearest) * gap @ memory["ownership"]
    return parts


def surprise(value, learned):
    """-log of the tail probability: a broken line through knots, the last piece endless."""
    value = np.log(max(value, learned["floor"])) if learned["by_log"] else value
    at, slopes = learned["knots"][0], learned["slopes"][:, 0]
    told = learned["least"]
    for k, slope in enumerate(slopes):
        end = at[k + 1] if k + 1 < len(at) else np.inf
        told += slope * max(0.0, min(value, end) - at[k])
    return told


def share(score, parts, floor):
    return (parts + floor / len(parts)) * score / (parts.sum() + floor)
