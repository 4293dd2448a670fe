"""Directions in which records do not vary, in as simple coefficients as there are: what exact relations of numbers are."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import torch
from numpy.typing import NDArray

EXACT = 1e-3  # of a standard deviation: as much as rounding may leave of a relation
NEARLY = 0.98  # of the records keep to a relation; what it leaves of the others is no rounding
COMMONEST = 0.8  # share of a column's commonest value, above which any sum of it and of its like is nearly always the same: then
VARYING_LEAST = 20  # records with others are needed, and it is these that have to keep a relation
RECORDS_LEAST, A_COLUMN = 100, 4  # records for each column
DRAWS = 8  # samples of the records, of which some have none that breaks a relation
WAYS_MOST = 100  # that are looked for; and of which, of how many numbers each, simpler ones are made
SIMPLER_MOST, USED_MOST = 16, 10
DECIMALS, RATE_NEARLY = 5, 1e-6
MULTIPLE_MOST = 100.0
SEEN_MOST = 2_000  # records by which it is told whether one is as exact
AS_EXACT, LAST = 2.0, 1e-7  # times what is left of the others, which is no less than last bits
WHOLE_MOST = 20  # a larger coefficient is whole by chance
COEFFICIENT_LEAST = 1e-6  # of the largest: less is nothing but last bits

Floats = NDArray[np.float64]


def away(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, R) how far sums (n, R) are from their median: that of most records, whatever a few others have moved the mean by."""
    return np.abs(sums - np.median(sums, axis=0))


def null_ways(z: Floats, varies: NDArray[np.bool_]) -> Floats:
    """(W, R) unit directions in which nearly all standardised records (n, W) do not vary but for rounding.

    The smallest principal components, of all records and of samples: one broken sum in a hundred hides a relation from the whole.
    varies: (n, W) where a column has not its commonest value. A sample has some such records of every column.
    """
    rng = np.random.default_rng(0)
    size = max(RECORDS_LEAST // 2, A_COLUMN * z.shape[1])
    seldom = [np.flatnonzero(column) for column in varies.T if column.mean() < 1 - COMMONEST]
    best = np.zeros((z.shape[1], 0))
    for draw in range(DRAWS):
        rows = rng.permutation(len(z))[:size]
        some = z if draw == 0 else z[np.concatenate([rows, *(rng.permutation(others)[:VARYING_LEAST] for others in seldom)])]
        variances, ways = torch.linalg.eigh(torch.cov(torch.from_numpy(some.T), correction=0))
        ways = sparse(ways[:, variances < EXACT**2][:, :WAYS_MOST].numpy())
        ways = ways[:, kept(z, ways, varies)]
        best = ways if ways.shape[1] > best.shape[1] else best
    return best


def kept(z: Floats, ways: Floats, varies: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(R,) whether nearly all standardised records (n, W) do not vary in a direction (W, R), nor do those that vary (n, W) in one
    of its columns."""
    left = away(times(z, ways / np.linalg.norm(ways, axis=0))) < EXACT
    ok = left.mean(0) > NEARLY
    for column in np.flatnonzero(varies.mean(0) < 1 - COMMONEST):
        ok &= (ways[column] == 0) | (left[varies[:, column]].mean(0) > NEARLY)
    return np.asarray(ok)


def times(values: Floats, weights: Floats) -> Floats:
    """(n, R) of (n, W) and (W, R), in torch's one thread: NumPy adds in another order with other threads."""
    made: Floats = (torch.from_numpy(values) @ torch.from_numpy(weights)).numpy()
    return made


def sparse(ways: Floats) -> Floats:
    """(W, R) directions that span what orthonormal `ways` (W, R) do, each with a number of its own, which no other has.

    The numbers are those that the span has the most of, one after the other, whatever directions it was given in.
    """
    span, own = times(ways, np.ascontiguousarray(ways.T)), list[int]()
    for _ in range(ways.shape[1]):
        own.append(int(np.argmax(np.round(np.diag(span), 9))))
        span = span - np.outer(span[:, own[-1]], span[own[-1]]) / span[own[-1], own[-1]]
    if not own:
        return ways
    rows: Floats = torch.linalg.solve(torch.from_numpy(ways[own].T), torch.from_numpy(ways.T)).numpy()
    return without_last_bits(rows).T


def simplest(z: Floats, ways: Floats, spread: Floats, nearly: float) -> Floats:
    """(W, R) coefficients of numbers, whose spread is (W,), of the same span as `ways` (W, R), in which standardised records
    (n, W) do not vary: as a person would write them, whole ones rather than others, and then as few as can be.

    Where a relation and a multiple of another make a simpler one that is as exact, it takes its place. nearly: as in_whole_units.
    """
    rows, again = ways.T.copy(), 2 <= ways.shape[1] <= SIMPLER_MOST
    some = z[:: -(-len(z) // SEEN_MOST)]

    def left(row: Floats) -> float:
        return float(np.quantile(away(times(some, row[:, None])), NEARLY) / np.linalg.norm(row))

    while again:
        again = False
        for i, j in permutations(range(len(rows)), 2):
            best = min(
                [rows[i], *combined(rows[i], rows[j], spread, nearly / 10)], key=lambda row: complexity(row / spread, nearly)
            )
            simpler = complexity(best / spread, nearly) < complexity(rows[i] / spread, nearly)
            if simpler and left(best) <= AS_EXACT * max(left(rows[i]), left(rows[j]), LAST):
                rows[i], again = best, True
    return in_round_units(rows.T / spread[:, None], nearly)


def combined(one: Floats, other: Floats, spread: Floats, least: float) -> Floats:
    """(A, W) one (W,) and a multiple of the other: those in which a number is gone, or two have coefficients of the same size.

    Without those that are hardly anything but the other one, or hardly anything at all. least: as without_last_bits.
    """
    used = np.flatnonzero((one != 0) | (other != 0))
    if not ((one != 0) & (other != 0)).any() or len(used) > USED_MOST:
        return np.empty((0, len(one)))
    above, below = (
        np.concatenate([part, np.subtract.outer(part, part).ravel(), np.add.outer(part, part).ravel()])
        for part in ((row / spread)[used] for row in (one, other))
    )
    multiples = above[below != 0] / below[below != 0]
    multiples = multiples[np.abs(multiples) * np.abs(other).max() <= MULTIPLE_MOST * np.abs(one).max()]
    made: Floats = without_last_bits(one - multiples[:, None] * other, least)
    some: Floats = made[np.abs(made).max(1, initial=0) * MULTIPLE_MOST >= np.abs(one).max()]
    return some


def complexity(row: Floats, nearly: float) -> tuple[bool, int]:
    """Of a relation's coefficients (W,): the less the simpler."""
    units = in_whole_units(row[:, None], nearly)
    return bool((units != np.rint(units)).any()), int(np.count_nonzero(row))


def in_whole_units(coefficients: Floats, nearly: float) -> Floats:
    """(W, R) each column's in units of its least, where all are whole then, or nearly; else as they are."""
    units = coefficients / np.where(coefficients != 0, np.abs(coefficients), np.inf).min(0)
    whole = np.rint(units)
    return np.where((np.abs(units - whole) <= nearly).all(0) & (np.abs(whole) <= WHOLE_MOST).all(0), whole, coefficients)


def in_round_units(coefficients: Floats, nearly: float) -> Floats:
    """(W, R) each column's in whole units or else, as rates are, in five decimals of its largest where these are nearly all: what
    is left of them is how far off they were found, and large numbers would show it."""
    whole = in_whole_units(coefficients, nearly)
    shares = whole / np.abs(whole).max(0)
    rates = np.round(shares, DECIMALS)
    found = (whole != np.rint(whole)).any(0) & (np.abs(shares - rates) <= RATE_NEARLY).all(0)
    return np.where(found, rates, whole)


def without_last_bits(rows: Floats, least: float = COEFFICIENT_LEAST) -> Floats:
    """(R, W) with 0 where there is less than this share of the largest."""
    return np.where(np.abs(rows) < least * np.abs(rows).max(1, initial=0, keepdims=True), 0, rows)
