"""The slow, obvious oracle: the ELBO of one record at a time, feature by feature, in float64 and plain NumPy.

It is never optimised, shares no code with training/, and takes only the learned numbers (state dicts) and the features.
"""

import math

import numpy as np

LEVELS, LIMIT, LOGIT_LIMIT, LOG_VAR_LIMIT, CHOICES = 64, 1e9, 15.0, 8.0, 32


def record_elbo(features, x, fitted, net, sigma):
    """(error (F,), floor (F,), kl) of one record x (C,) on the mean path of one net; fitted: Preprocessing's state dict."""
    y, seen = encode(features, x, fitted)
    mu, log_var = posterior(features, x, fitted, net)
    kl = sum(0.5 * (m * m + math.exp(v) - v - 1) for m, v in zip(mu, log_var, strict=True))
    error, floor = likelihood(features, x, y, seen, record_out(features, x, fitted, net), fitted, sigma)
    return error, floor, kl


def posterior(features, x, fitted, net):
    """mu and log_var (L,) of one record."""
    y, seen = encode(features, x, fitted)
    shown = np.where(seen, y, net["encoder.imputation"])
    h = np.tanh(net["encoder.body.0.weight"] @ shown + net["encoder.body.0.bias"])
    log_var = np.clip(net["encoder.log_var.weight"] @ h + net["encoder.log_var.bias"], -LOG_VAR_LIMIT, LOG_VAR_LIMIT)
    return net["encoder.mu.weight"] @ h + net["encoder.mu.bias"], log_var


def record_out(features, x, fitted, net):
    """What the decoder says (D,) of one record, eps being 0."""
    z, _ = posterior(features, x, fitted, net)
    logits = net["decoder.choice.weight"] @ z + net["decoder.choice.bias"]
    out = net["decoder.prototypes.bias"].copy()
    for start in range(0, len(logits), CHOICES):  # each head's own prototypes, and how likely each of them
        e = np.exp(logits[start : start + CHOICES] - logits[start : start + CHOICES].max())
        for k, share in enumerate(e / e.sum()):
            out += share * net["decoder.prototypes.weight"][:, start + k]
    return out


def columns_of(features):
    """The first column of x of each feature."""
    return np.cumsum([0, *(3 if f.kind == "datetime" else 1 for f in features)])[:-1]


def encode(features, x, fitted):
    """The slots [real | boolean | one-hot] of one record, and whether each has a value."""
    first = columns_of(features)
    real, bit, onehot, category = [], [], [], 0
    numerics = [i for i, f in enumerate(features) if f.kind == "numeric"]
    for place, i in enumerate(numerics):
        value = x[first[i]]
        away = np.clip((value - fitted["origin"][place]) / fitted["unit"][place], -LIMIT, LIMIT)
        bent = np.sign(away) * ((1 + abs(away)) ** (1 / 8) - 1)
        real.append(((bent - fitted["centre"][place]) / fitted["scale"][place], not np.isnan(value)))
    parts = [int(column) for column in fitted["cyclic"]]
    angles = []
    for column in parts:
        part = column - max(c for c in first if c <= column)
        period = (24, 7, 12)[part]
        angles.append((2 * math.pi * (x[column] - (part == 2)) / period, not np.isnan(x[column])))
    real += [(math.cos(angle), ok) for angle, ok in angles] + [(math.sin(angle), ok) for angle, ok in angles]
    for i, f in enumerate(features):
        if f.kind == "boolean":
            bit.append((x[first[i]], not np.isnan(x[first[i]])))
    for i, f in enumerate(features):
        if 0 < f.missing_rate < 1:
            bit.append((float(np.isnan(x[first[i]])), True))
    for i, f in enumerate(features):
        if f.kind == "categorical":
            slots = min(len(f.categories) + 1, LEVELS)
            code = slot_of(x[first[i]], f, fitted["beyond"][category])
            category += 1
            onehot += [(float(level == code), not np.isnan(code)) for level in range(slots)]
    every = real + bit + onehot
    y = np.array([value if ok else 0.0 for value, ok in every])
    return y, np.array([ok for _, ok in every])


def likelihood(features, x, y, seen, out, fitted, sigma):
    """-log p(x_f | z) per feature, as what is above its least value (F,) and that least value (F,)."""
    first = columns_of(features)
    error, floor = np.zeros(len(features)), np.zeros(len(features))
    numerics = [i for i, f in enumerate(features) if f.kind == "numeric"]
    parts = [int(column) for column in fitted["cyclic"]]
    owner = numerics + 2 * [int(np.flatnonzero(first <= column)[-1]) for column in parts]
    slot = 0
    for i in owner:
        if seen[slot]:
            density = math.exp(-((y[slot] - out[slot]) ** 2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))
            nll = (y[slot] - out[slot]) ** 2 / (2 * sigma**2) + math.log(sigma * math.sqrt(2 * math.pi))
            assert density == 0 or abs(nll + math.log(density)) < 1e-6 * max(1, abs(nll))
            floor[i] += math.log(sigma * math.sqrt(2 * math.pi))
            error[i] += (y[slot] - out[slot]) ** 2 / (2 * sigma**2)
        slot += 1
    owner = [i for i, f in enumerate(features) if f.kind == "boolean"] + [
        i for i, f in enumerate(features) if 0 < f.missing_rate < 1
    ]
    for i in owner:
        if seen[slot]:
            p = 1 / (1 + math.exp(-bounded(out[slot])))
            error[i] -= math.log(p if y[slot] else 1 - p)
        slot += 1
    start = category = 0
    for i, f in enumerate(features):
        if f.kind == "categorical":
            slots = min(len(f.categories) + 1, LEVELS)
            if not np.isnan(x[first[i]]):
                e = np.exp(bounded(out[slot : slot + slots]))
                code = int(min(x[first[i]], len(f.categories)))
                error[i] += -math.log(e[slot_of(code, f, fitted["beyond"][category])] / e.sum()) + fitted["rarity"][start + code]
            category += 1
            start += len(f.categories) + 1
            slot += slots
    return error, floor


def slot_of(code, feature, beyond):
    """The slot of a level's code, NaN of none. Of 64 levels and more, the rare ones share one, and new ones may have the next."""
    known = len(feature.categories)
    if np.isnan(code):
        return code
    if beyond and code < known:
        return int(min(code, LEVELS - 2))
    return int(min(code, known, LEVELS - 1))


def bounded(logit):
    return LOGIT_LIMIT * np.tanh(logit / LOGIT_LIMIT)
