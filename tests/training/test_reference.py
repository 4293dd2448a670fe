"""What the manifest says of the training table, beside the table itself."""

import numpy as np
import pytest
from pydantic import ValidationError

from service.bundle import Bundle
from service.manifest import Feature
from training.data import read_dataset
from training.example import LABEL, NORMAL
from training.reference import CELLS, deciles, reference, with_reference

from .mixed import FEATURES, rows


def test_every_record_is_in_one_cell_of_every_feature():
    features = with_reference(FEATURES, rows(1_000))
    for feature in features:
        told = feature.reference
        assert told.records == 1_000
        assert feature.kind == "datetime" or told.missing + told.unknown + sum(told.counts) == 1_000
    shop, city, online = features[2].reference, features[3].reference, features[5].reference
    x = rows(1_000)
    assert shop.missing == np.isnan(x[:, 2]).sum() > 100
    assert list(shop.counts) == [(x[:, 2] == code).sum() for code in range(3)]
    assert list(city.counts) == [(x[:, 3] == code).sum() for code in range(90)]
    assert list(online.counts) == [(x[:, 5] == 0).sum(), (x[:, 5] == 1).sum()]
    assert features[6].reference.counts == ()


def test_the_cells_of_a_number_hold_a_tenth_each():
    values = np.random.default_rng(0).lognormal(0, 3, 5_000).astype(np.float32)
    counts = np.array(reference(FEATURES[0], values).counts)
    assert len(counts) == CELLS
    assert (abs(counts - 500) <= 1).all()


def test_a_value_that_many_records_have_is_a_cell_of_its_own():
    values = np.array([0.0] * 60 + list(range(1, 41)), np.float32)
    told = reference(FEATURES[0], values)
    assert (told.bounds[0], told.counts[0]) == (0.0, 60)
    constant = reference(FEATURES[0], np.array([7, 7, np.nan], np.float32))
    assert (constant.bounds, constant.counts, constant.missing) == ((), (2,), 1)
    assert len(deciles(np.empty(0, np.float32))) == 0


def test_a_value_beyond_the_categories_is_counted_as_unknown():
    told = reference(FEATURES[2], np.array([0, 1, 3, 3, np.nan], np.float32))
    assert (told.counts, told.unknown, told.missing) == ((1, 1, 0), 2, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"records": 3, "missing": 0, "counts": (1, 1)},
        {"records": 2, "missing": 0, "counts": (2,)},
        {"records": 2, "missing": 0, "bounds": (1.0, 1.0), "counts": (1, 1, 0)},
        {"records": 0, "missing": 0, "counts": (0, 0)},
        {"records": 2, "missing": 0, "counts": (3, -1)},
    ],
)
def test_a_reference_that_contradicts_itself_is_refused(wrong):
    with pytest.raises(ValidationError):
        Feature.model_validate({"name": "a", "kind": "boolean", "reference": wrong})


def test_a_fit_tells_what_its_table_looked_like(payments, bundle: Bundle):
    table = read_dataset(payments.table, LABEL, NORMAL)
    assert bundle.manifest.features == with_reference(table.features, table.x)
    assert bundle.manifest.calibration.held_out is True
    assert all(feature.reference.records == len(table.x) for feature in bundle.manifest.features)
