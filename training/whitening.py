"""Whitening: distances in which what usually goes together counts once.

Records differ most where several values vary together, and least where one of these goes another way, which is what an odd record
does. In a whitened view both are as far.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from training.centres import k_means
from training.config import Config
from training.preprocessing import Slots
from training.views import View

NEVER_VARIES = 1e-6  # standard deviations, in the view: less is last bits


class Whitened(nn.Module):
    """Slots -> (N, D) the values of a view, of which those that vary together count once.

    How they vary is told by the training records' deviations from the middles of a few groups that k-means finds, as in Fisher's
    discriminant: where records are of several sorts, the mean of all is nobody's middle.
    """

    matrix: Tensor  # (D, D)

    def __init__(self, view: View, seen: Tensor, config: Config, draw: np.random.Generator) -> None:
        """Whitens a view of training records, whose values in it are `seen` (N, D)."""
        super().__init__()
        self.view = view
        middles, member = k_means(seen, max(1, min(config.groups, len(seen) // config.centre_records)), draw)
        self.matrix = nn.Buffer(whitening(seen - middles[member], config.ridge))

    def forward(self, slots: Slots, out: Tensor) -> Tensor:
        """(N, D) the values of slots, by the decoders' output (N, D) in the gaps."""
        values: Tensor = self.view(slots, out) @ self.matrix
        return values


def whitening(deviations: Tensor, ridge: float) -> Tensor:
    """(D, D) what deviations (N, D) from some middle are multiplied by, so that they no longer vary together.

    ZCA-cor (Kessy, Lewin & Strimmer 2018): the root of the inverse of their correlations, so that what comes out is most like the
    slot in its place, and then in each slot's own unit again. A slot that varies with no other stays as it is, and so does one
    that never varies. The ridge is added to the diagonal of the correlations: a way in which records hardly vary says little.
    """
    values = deviations.double()
    unit = torch.sqrt((values**2).mean(0))
    varies = unit > NEVER_VARIES
    unit = torch.where(varies, unit, 1.0)
    values = torch.where(varies, values / unit, 0.0)
    correlations = values.T @ values / len(values) + torch.diag((~varies).double())
    variances, ways = torch.linalg.eigh(correlations)
    factors = torch.sqrt((1 + ridge) / (variances.clamp(min=0) + ridge))
    matrix: Tensor = ways * factors @ ways.T / unit[:, None] * unit
    return matrix.float()
