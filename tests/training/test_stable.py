"""What the graph computes by polynomials is what it is called after."""

import math

import numpy as np
import torch

from training.stable import atan2, cos_sin

TURN = torch.linspace(0, 1, 100_001, dtype=torch.float64)


def test_the_angle_is_that_of_numpy_in_every_direction_and_at_any_distance():
    for length in (1e-6, 1.0, 1e6):
        x, y = (length * part(2 * math.pi * TURN).float()[:, None] for part in (torch.cos, torch.sin))
        meant = np.arctan2(y.double().numpy(), x.double().numpy())
        assert np.abs(atan2(y, x).double().numpy() - meant).max() < 1e-6
    zero, one = torch.zeros(1, 1), torch.ones(1, 1)
    assert [float(atan2(*pair)) for pair in ((zero, zero), (zero, one), (one, zero))] == [0, 0, np.float32(math.pi / 2)]


def test_cosine_and_sine_are_those_of_the_turn():
    for told, meant in zip(cos_sin(TURN.float()[:, None]), (torch.cos, torch.sin), strict=True):
        assert (told[:, 0] - meant(2 * math.pi * TURN)).abs().max() < 1e-6
