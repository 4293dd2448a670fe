"""What the nets see of a record: parts of datetimes that tell something, and values that are hidden from the encoder."""

import numpy as np
import pytest
import torch

from service.manifest import Feature
from training.config import Config
from training.fit import corrupt
from training.preprocessing import Preprocessing, telling_parts

from .mixed import FEATURES, rows

DRAW = np.random.default_rng(7)


def times(months, weekdays=7, hours=24.0):
    """(1000, 3) hour, weekday and month, all different ones of these among them."""
    n = 1_000
    return np.column_stack([DRAW.random(n) * hours, np.arange(n) % weekdays, np.resize(months, n)]).astype(np.float32)


@pytest.mark.parametrize(
    ("x", "parts"),
    [
        (times(range(1, 13)), [0, 1, 2]),
        (times(range(2, 13)), [0, 1, 2]),
        (times([1, 2, 3]), [0, 1]),
        (times([5]), [0, 1]),
        (times(range(1, 13), weekdays=5), [0, 1, 2]),
        (times([1, 2, 3], weekdays=5), [0, 1]),
        (times([1, 2, 3], weekdays=4), [0]),
        (times([1, 2], weekdays=6), [0]),
        (times([1, 2, 3], hours=0), [1]),
        (times([1, 2], weekdays=5, hours=0), [1]),
        (times([1, 2, 3], weekdays=1, hours=0), [2]),
    ],
    ids=[
        "a year",
        "eleven months",
        "a quarter",
        "a month",
        "working days",
        "a quarter of working days",
        "four days",
        "six days",
        "dates",
        "dates of five days",
        "months",
    ],
)
def test_of_a_datetime_those_parts_are_looked_at_that_tell_what_is_usual(x, parts):
    assert telling_parts(x) == parts
    x[:90] = np.nan
    assert telling_parts(x) == parts


def test_a_table_of_one_quarter_does_not_make_the_next_one_odd():
    spring = np.column_stack([times([1, 2, 3]), DRAW.normal(size=1_000)]).astype(np.float32)
    preprocessing = Preprocessing([Feature(name="at", kind="datetime"), Feature(name="a", kind="numeric")], spring)
    summer = spring.copy()
    summer[:, 2] = 7
    assert torch.equal(preprocessing(torch.from_numpy(spring)).y, preprocessing(torch.from_numpy(summer)).y)


def test_a_hidden_value_is_missing_to_the_encoder_in_its_slot_for_that_too():
    """Else a column that hardly ever lacks a value would have a slot of which the encoder has learned nothing."""
    x = rows(300)
    x[:3, 1] = np.nan
    features = [
        feature.model_copy(update={"missing_rate": float(np.isnan(x[:, place]).mean())})
        for place, feature in zip(columns_of(FEATURES), FEATURES, strict=True)
    ]
    preprocessing = Preprocessing(features, x)
    clean = preprocessing(torch.from_numpy(x))
    seen = corrupt(preprocessing, clean, Config(), torch.Generator().manual_seed(0))
    front = preprocessing.reals + preprocessing.booleans
    lacks = slice(front, front + len(preprocessing.lacking))
    assert len(preprocessing.lacking)
    torch.testing.assert_close(seen.y[:, lacks], seen.hidden[:, preprocessing.lacking])
    assert (seen.hidden[:, preprocessing.lacking].sum(0) > 20).all()
    assert (seen.gap[:, lacks] == 0).all()
    assert (clean.y[:, lacks].sum(0) == torch.from_numpy(np.isnan(x)[:, preprocessing.lacking].sum(0))).all()  # what is asked


def columns_of(features):
    """The first column of each feature."""
    return np.cumsum([0, *(feature.width for feature in features)])[:-1].tolist()


@pytest.mark.parametrize("value", [3.4e38, -3.4e38, 1e20])
def test_one_absurd_value_does_not_hide_the_others_of_its_column(value):
    x = np.random.default_rng(0).normal(size=(1_500, 1)).astype(np.float32)
    features = [Feature(name="a", kind="numeric")]
    usual = Preprocessing(features, x)(torch.from_numpy(x)).y.std()
    absurd = x.copy()
    absurd[0] = value
    others = Preprocessing(features, absurd)(torch.from_numpy(x[1:])).y.std()
    assert torch.isfinite(others)
    assert others > usual / 20


@pytest.mark.parametrize("size", [1e-36, 1e37])
def test_numbers_at_the_ends_of_float32_have_slots(size):
    x = (np.random.default_rng(0).normal(size=(200, 1)) * size).astype(np.float32)
    slots = Preprocessing([Feature(name="a", kind="numeric")], x)(torch.from_numpy(x))
    assert torch.isfinite(slots.y).all()
    assert torch.isfinite(slots.bent).all()
