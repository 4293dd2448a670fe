"""Every setting of a fit, with its unit; the whole of it is written into the manifest."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from service.manifest import ScoreKind


@dataclass(frozen=True)
class Config:
    """One default for every table. `python -m training fit` has options for the first four; a file of `--config` may set any."""

    seed: int = 0
    target_fpr: float = 0.01  # the bundle's alpha: share of normal records that may be flagged
    score: ScoreKind = "surprise"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    # split
    calibration_from: int = 1_000  # normal records; a smaller table holds none out, each is judged without itself instead
    calibration_from_in_order: int = 500  # of a table in order: without themselves, records still have their neighbours
    calibration_share: float = 0.2
    calibration_most: int = 10_000  # records
    nets: int = 4  # each is trained without one fold of the rest, on which it is validated
    # net
    hidden: int = 128  # units of the encoder's hidden layer
    latent: int = 32  # L of one net: the noise on the input is what keeps it from copying
    heads: int = 8  # of the decoder: a record is a sum of so many prototypes
    choices: int = 32  # prototypes that each head chooses from
    sigma: float = 0.1  # of the Gaussian likelihood, in standard deviations of the bent number
    # training
    steps_most: int = 800  # of a net
    steps_root: float = 12.0  # times the root of the number of records: small tables overfit
    steps_least: int = 60
    wide: int = 600  # slots, over which there are fewer steps, since each costs more; 200 at the least
    batch: int = 128  # records
    learning_rate: float = 2e-2  # at its height; a cosine brings it to 0
    rise: int = 20  # steps until it is there
    warm_up: int = 100  # steps over which the KL term grows to its full weight
    clip: float = 100.0  # norm of the gradient, in nats a slot
    evaluate_every: int = 50  # steps
    patience: int = 6  # evaluations without a better validation loss until a net stops early
    noise: float = 0.1  # standard deviation of the noise on the numbers that the encoder gets
    mask: float = 0.5  # the largest share of a record's columns hidden from the encoder; each record draws its own
    # surprise
    memory: int = 2_048  # training records remembered, at most
    neighbours: int = 2
    neighbours_small: int = 15  # on a table of fewer than `small` records
    small: int = 500
    radius_neighbours: int = 5
    locality: float = 0.6  # power of the radius by which distances are divided, on a large table
    locality_records: int = 200  # records at which it is half of that
    pool: int = 20_000  # records that the memory and the centres are made from, at most
    centres: int = 256  # at most
    centre_records: int = 8  # of training, for each centre at least
    whiten_most: int = 1_500  # slots, beyond which the memory's view is not whitened: the matrix has so many squared
    groups: int = 32  # at most, whose records' deviations tell which values vary together
    ridge: float = 0.01  # added to the variance of each direction, in means
    net_weight: float = 0.75  # of the square of the nets' surprise in the sum with that of the memory
    centres_weight: float = 0.7  # of the centres'
    regressions_weight: float = 1.0  # of the square of how odd a number is by the others
    presence_weight: float = 1.5  # of the square of how odd it is which values are missing
    rules_weight: float = 1.0  # of the square of how odd it is that rules are broken
    regression: float = 0.25  # share of a number's variance that its others must explain, for it to be judged by them
    presence: float = 0.25  # share of the deviance of a column's gaps that its others must explain, for the gaps to count
    threads: int = 1  # of torch; fixed, since another number adds in another order, and small nets gain nothing from more

    def steps_for(self, records: int, slots: int) -> int:
        """Steps of a net on a table of so many training records and slots."""
        by_width = max(200, self.steps_most * self.wide // slots)
        return int(min(self.steps_most, max(self.steps_least, self.steps_root * math.sqrt(records)), by_width))

    def share_held(self, records: int, *, in_order: bool = False) -> float:
        """The share of so many normal records that calibrates and does nothing else; in_order: as in a time series."""
        if records < (min(self.calibration_from, self.calibration_from_in_order) if in_order else self.calibration_from):
            return 0.0
        return min(self.calibration_share, self.calibration_most / records)

    def dump(self) -> dict[str, Any]:
        """All settings, for the manifest."""
        return asdict(self)
