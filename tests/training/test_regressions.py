"""Numbers that contradict the others: found where these tell, of no account where they do not, and what is expected instead."""

import dataclasses

import numpy as np
import pytest
import torch

from service.manifest import Feature
from training.calibrate import build
from training.config import Config
from training.export import export
from training.fit import fit_nets
from training.preprocessing import Preprocessing
from training.regressions import PULL, regressions_of, telling
from training.ridge import PRIOR, fit, regress

from .made import folds, scorers_of

SALES = (
    Feature(name="amount", kind="numeric"),
    Feature(name="height", kind="numeric"),
    Feature(name="weight", kind="numeric", missing_rate=0.1),
    Feature(name="noise", kind="numeric"),
    Feature(name="rare", kind="numeric"),
    Feature(name="product", kind="categorical", categories=("loan", "card", "giro")),
)
AMOUNT, HEIGHT, WEIGHT, NOISE, RARE, PRODUCT = range(6)
LOAN, CARD, GIRO = range(3)
LEAST = Config().regression


def sales(n, seed=0):
    """x (n, 6) of SALES: loans are of larger amounts, what is higher weighs more; a tenth of the weights is missing."""
    draw = np.random.default_rng(seed)
    product = draw.integers(0, 3, n)
    amount = np.exp(draw.normal(np.where(product == LOAN, 8.0, 4.0), 0.5))
    height = draw.normal(170, 10, n)
    weight = height - 100 + draw.normal(0, 2, n)
    rare = draw.random(n) < 0.02
    x = np.column_stack([amount, height, weight, draw.normal(size=n), rare, product]).astype(np.float32)
    x[draw.random(n) < 0.1, WEIGHT] = np.nan
    return x


@pytest.fixture(scope="module")
def fitted():
    """(preprocessing, regressions) of 2,000 sales."""
    preprocessing = Preprocessing(SALES, sales(2_000))
    return preprocessing, regressions_of(preprocessing, sales(2_000), folds(2_000), LEAST, seed=0)


@pytest.fixture(scope="module")
def scorers():
    """Of 2,000 sales: a scorer with regressions, and one without."""
    return scorers_of(SALES, sales(2_000), sales(600, seed=1), regressions_weight=(1.0, 0.0))


def changed(x, column, value):
    x = x.copy()
    x[:, column] = value
    return x


def small_loans(n, seed):
    """Of an amount that cards have: of loans six standard deviations below the mean of its logarithm."""
    x = sales(3 * n, seed)
    return changed(x[x[:, PRODUCT] == LOAN], AMOUNT, 150)


def told(fitted, x):
    preprocessing, regressions = fitted
    with torch.no_grad():
        value, parts = regressions(preprocessing(torch.from_numpy(x)))
    return value[:, 0].numpy(), parts.numpy()


def test_numbers_are_looked_at_that_the_others_tell(fitted):
    assert fitted[1].columns == [AMOUNT, HEIGHT, WEIGHT]


def test_where_nothing_is_told_there_is_no_such_term():
    draw = np.random.default_rng(0)
    for n in (40, 300, 2_000):
        x = draw.normal(size=(n, 8)).astype(np.float32)
        preprocessing = Preprocessing([Feature(name=f"v{i}", kind="numeric") for i in range(8)], x)
        assert regressions_of(preprocessing, x, folds(n), LEAST, seed=0) is None


def test_a_column_of_one_value_but_for_a_few_rows_is_not_looked_at():
    """What is 0 in 98 of 100 rows is told by a copy of itself, and a rare flag is no contradiction where both come."""
    x = sales(2_000)
    x[:, NOISE] = x[:, RARE]
    preprocessing = Preprocessing(SALES, x)
    regressions = regressions_of(preprocessing, x, folds(2_000), LEAST, seed=0) or pytest.fail("the others tell of no number")
    assert regressions.columns == [AMOUNT, HEIGHT, WEIGHT]


def test_of_normal_records_hardly_any_has_a_contradiction(fitted):
    value, _ = told(fitted, sales(4_000, seed=2))
    assert (value >= 0).all()
    assert (value > 0).mean() < 0.006


@pytest.mark.parametrize(
    ("odd", "sides"),
    [
        (lambda: small_loans(300, seed=3), {AMOUNT, PRODUCT}),
        (lambda: changed(sales(300, seed=4), WEIGHT, 130), {HEIGHT, WEIGHT}),
    ],
    ids=["a loan of 150", "a weight of 130"],
)
def test_a_contradiction_costs_nats_and_both_of_its_sides_have_them(fitted, odd, sides):
    value, parts = told(fitted, odd())
    assert np.median(value) > 1
    assert (value > 0).mean() > 0.9
    np.testing.assert_allclose(parts.sum(1), value, rtol=1e-5)
    of_sides = (parts[value > 0] / value[value > 0, None])[:, sorted(sides)]
    assert np.quantile(of_sides.sum(1), 0.1) > 0.8
    assert np.median(of_sides, axis=0).min() > 0.8 * min(PULL, 1 - PULL)


def test_what_is_missing_contradicts_nothing(fitted):
    for column in (AMOUNT, HEIGHT, WEIGHT, PRODUCT):
        value, parts = told(fitted, changed(sales(1_000, seed=5), column, np.nan))
        assert (value > 0).mean() < 0.01
        assert not parts[value == 0].any()
    value, _ = told(fitted, np.full((1, 6), np.nan, np.float32))
    assert value == 0


def test_what_is_beyond_all_numbers_is_finite(fitted):
    edge = np.finfo(np.float32).max
    for size in (edge, -edge):
        value, parts = told(fitted, np.array([[size, size, size, size, size, 3]], np.float32))
        assert np.isfinite(value).all()
        assert np.isfinite(parts).all()


def test_amounts_are_taken_by_their_logarithm_where_the_others_tell_them_so(fitted):
    standard = fitted[1].standard
    assert standard.amount.tolist() == [AMOUNT]  # heights, too, are above 0
    x = changed(sales(100, seed=6), PRODUCT, LOAN)
    low, high = (told(fitted, changed(x, AMOUNT, np.exp(8.0 + side * 5)))[0] for side in (-1, 1))
    assert (low > 1).all()
    assert (high > 1).all()


def test_what_is_expected_is_told_by_the_others_alone_and_is_no_number_that_training_never_saw(fitted):
    preprocessing, regressions = fitted
    x = sales(500, seed=7)
    seen, wrong = (regressions.expected(preprocessing(torch.from_numpy(part))) for part in (x, changed(x, WEIGHT, 5_000)))
    torch.testing.assert_close(seen[:, 2], wrong[:, 2])
    there = ~np.isnan(x[:, WEIGHT])
    assert np.abs(wrong[there, 2].numpy() - x[there, WEIGHT]).max() < 10
    far = regressions.expected(preprocessing(torch.from_numpy(changed(x, HEIGHT, 1e6))))[:, 2]
    assert (far <= np.nanmax(sales(2_000)[:, WEIGHT]) * 1.0001).all()


def test_training_records_are_judged_without_their_fold(fitted):
    """In one fold weights fall with the height: odd to the other folds."""
    x, fold = sales(2_000), folds(2_000)
    turned = fold == 0
    x[turned, WEIGHT] = 240 - x[turned, HEIGHT]
    preprocessing = Preprocessing(SALES, x)
    regressions = regressions_of(preprocessing, x, fold, -9.0, seed=0) or pytest.fail("the others tell of no number")
    slots, own = preprocessing(torch.from_numpy(x)), torch.from_numpy(fold.astype(np.int64))
    seen = telling(regressions.standard(slots), slots)
    expected = torch.stack([seen[i] @ regressions.fits.weight[k] + regressions.fits.bias[k] for i, k in enumerate(own.tolist())])
    torch.testing.assert_close(regressions.fits.honest(seen, own), expected, rtol=1e-4, atol=1e-4)
    regressions.begin, regressions.slope = 0.0, 1.0  # the deviation itself
    away = (regressions.standard(slots) - expected).abs() / (regressions.most + slots.gap @ regressions.doubt)
    torch.testing.assert_close(regressions.honest(slots, own).value[:, 0], away.amax(1), rtol=1e-4, atol=1e-4)
    slope = regressions.fits.weight[:, HEIGHT, WEIGHT]
    assert slope[0] > max(slope[1:]) + 0.2  # the one without the fold that is turned round


@pytest.mark.parametrize("place", range(4))
def test_a_column_of_the_inverse_is_the_ridge_regression_of_that_value_on_the_others(place):
    draw = np.random.default_rng(place)
    seen = draw.normal(size=(200, 4)) @ draw.normal(size=(4, 4)) + 3
    with_one = np.column_stack([np.ones(200), seen])
    got = regress(torch.from_numpy(with_one.T @ with_one)).numpy()[:, 1 + place]
    others = [column for column in range(5) if column != 1 + place]
    design = with_one[:, others]
    ridge = PRIOR * np.maximum(design.var(0), 1e-6)
    meant = np.linalg.solve(design.T @ design + np.diag(ridge), design.T @ seen[:, place])
    np.testing.assert_allclose(got[others], meant, rtol=1e-6, atol=1e-9)
    assert got[1 + place] == 0


def test_a_value_with_gaps_is_fitted_to_the_records_that_have_it():
    draw = np.random.default_rng(0)
    seen = torch.from_numpy(draw.normal(size=(400, 3)))
    seen[:, 2] = seen[:, 0] * 2 + 1
    there = torch.ones(400, 3, dtype=torch.bool)
    there[::3, 2] = False
    seen[::3, 2] = 0
    fits = fit(seen, there, torch.arange(400) % 4)
    assert fits.made.all()
    torch.testing.assert_close(fits.weight[:, 0, 2], torch.full((4,), 2.0, dtype=torch.float64), rtol=0.01, atol=0)
    torch.testing.assert_close(fits.bias[:, 2], torch.ones(4, dtype=torch.float64), rtol=0.01, atol=0.01)


def test_a_loan_of_an_amount_that_others_have_is_an_anomaly_and_says_why(scorers):
    assert [each.regressions is None for each in scorers] == [False, True]
    normal, odd = sales(2_000, seed=8), small_loans(300, seed=9)
    with torch.no_grad():
        level = [torch.quantile(each(torch.from_numpy(normal)).score, 0.99) for each in scorers]
        answers = [each(torch.from_numpy(odd)) for each in scorers]
    flagged = [float((answer.score > bound).float().mean()) for answer, bound in zip(answers, level, strict=True)]
    assert flagged[0] > 0.9
    assert flagged[1] < flagged[0] - 0.2
    torch.testing.assert_close(answers[0].contributions.sum(1, keepdim=True), answers[0].score, rtol=1e-5, atol=1e-5)
    assert torch.isin(answers[0].contributions.argmax(1), torch.tensor([AMOUNT, PRODUCT])).float().mean() > 0.95
    with_it, without = (answer.expected for answer in answers)
    by_the_others = scorers[0].regressions.expected(scorers[0].preprocessing(torch.from_numpy(odd)))
    torch.testing.assert_close(with_it[:, [AMOUNT, HEIGHT, WEIGHT]], by_the_others)
    assert 1_000 < with_it[:, AMOUNT].median() < 8_000  # what is usual of a loan
    assert without[:, AMOUNT].median() < 1_500  # the nets have seen the 150
    torch.testing.assert_close(with_it[:, [NOISE, RARE, PRODUCT]], without[:, [NOISE, RARE, PRODUCT]])


def test_where_nothing_is_told_the_graph_is_as_it_was():
    """Its bytes are those of a scorer that never asked."""
    torch.set_num_threads(1)
    x, columns = sales(300), [NOISE, RARE]
    preprocessing = Preprocessing([SALES[column] for column in columns], x[:, columns])
    config = Config(hidden=8, latent=4, steps_most=20, evaluate_every=10, memory=50)
    nets, _ = fit_nets(preprocessing, x[:, columns], folds(300), config, "cpu", lambda *_: None)
    made = (dataclasses.replace(config, regressions_weight=weight) for weight in (1.0, 0.0))
    held = sales(200, seed=1)[:, columns]
    scorers = [build(preprocessing, nets, x[:, columns], folds(300), held, each)[0] for each in made]
    assert export(scorers[0]) == export(scorers[1])
