"""What held for every training record: found where the table tells it, odd where it is broken, and no rule where it is chance."""

import re

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.manifest import Bounds, Feature, Rules
from service.rules import Judge, in_words
from service.session import Session
from training.export import export
from training.parity import golden_records
from training.preprocessing import FLOAT32_MOST, Preprocessing
from training.rules.apart import FEW, MEETINGS
from training.rules.bounds import POSITIVE, TIES, bounds_of, pairs_of, whole_numbers
from training.rules.description import describe_rules
from training.rules.null_ways import sparse
from training.rules.products import products_of
from training.rules.relations import relations_of
from training.rules.rule_set import rules_of
from training.rules.solutions import Solutions

from .made import folds, scorers_of

ORDERS = (
    Feature(name="net", kind="numeric"),
    Feature(name="tax", kind="numeric"),
    Feature(name="gross", kind="numeric", missing_rate=0.01),
    Feature(name="stars", kind="numeric", integer=True),
    Feature(name="noise", kind="numeric"),
    Feature(name="checked", kind="boolean"),
    Feature(name="product", kind="categorical", categories=("loan", "card", "giro")),
)
NET, TAX, GROSS, STARS, NOISE, CHECKED, PRODUCT = range(7)
LOAN = 0


def orders(n, seed=0):
    """x (n, 7) of ORDERS: gross is net and tax, to the cent; stars are 1 to 5; loans are always checked."""
    draw = np.random.default_rng(seed)
    net = np.round(draw.lognormal(4, 1, n), 2)
    tax = np.round(net * draw.choice([0.07, 0.19], n), 2)
    product = draw.integers(0, 3, n)
    checked = (product == LOAN) | (draw.random(n) < 0.5)
    x = np.column_stack([net, tax, np.round(net + tax, 2), draw.integers(1, 6, n), draw.normal(size=n), checked, product])
    return x.astype(np.float32)


@pytest.fixture(scope="module")
def fitted():
    """(preprocessing, rules) of 2,000 orders."""
    preprocessing = Preprocessing(ORDERS, orders(2_000))
    return preprocessing, rules_of(preprocessing, orders(2_000), folds(2_000), seed=0)


@pytest.fixture(scope="module")
def scorers():
    """Of 2,000 orders: a scorer that knows the rules, and one that does not."""
    return scorers_of(ORDERS, orders(2_000), orders(500, seed=1), rules_weight=(1.0, 0.0))


def changed(x, column, value):
    x = x.copy()
    x[:, column] = value
    return x


def told(fitted, x):
    preprocessing, rules = fitted
    with torch.no_grad():
        value, parts = rules(preprocessing(torch.from_numpy(x)))
    return value[:, 0].numpy(), parts.numpy()


BROKEN = {
    "a bound": (lambda x: changed(x, STARS, 0), {STARS}),
    "the other": (lambda x: changed(x, STARS, 6), {STARS}),
    "a half": (lambda x: changed(x, STARS, 2.5), {STARS}),
    "a pair": (lambda x: changed(changed(x, CHECKED, 0), PRODUCT, LOAN), {CHECKED, PRODUCT}),
    "a sum": (lambda x: changed(x, GROSS, x[:, GROSS] * 1.1 + 1), {NET, TAX, GROSS}),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_rule_costs_nats_and_its_columns_have_them(fitted, how):
    breaks, columns = BROKEN[how]
    x = orders(200, seed=3)
    kept, _ = told(fitted, x)
    value, parts = told(fitted, breaks(x))
    assert (kept == 0).all()
    assert value.min() == pytest.approx(np.log(2_001), rel=1e-4)  # one training record in 2,001, at most
    np.testing.assert_allclose(parts.sum(1), value, rtol=1e-5)
    assert {j for j in range(len(ORDERS)) if parts[:, j].any()} == columns
    for j in columns:
        np.testing.assert_allclose(parts[:, j], value / len(columns), rtol=1e-5)


def test_two_broken_rules_are_odder_than_one(fitted):
    x = orders(50, seed=4)
    one, _ = told(fitted, changed(x, STARS, 0))
    two, parts = told(fitted, BROKEN["a sum"][0](changed(x, STARS, 0)))
    np.testing.assert_allclose(two, one * np.sqrt(2), rtol=1e-5)
    np.testing.assert_allclose(parts.sum(1), two, rtol=1e-5)


def test_where_a_value_is_missing_no_rule_is_broken(fitted):
    x = orders(50, seed=5)
    for column in range(len(ORDERS)):
        assert (told(fitted, changed(x, column, np.nan))[0] == 0).all()


def test_rounding_breaks_no_sum_and_a_little_more_than_rounding_does():
    def rounded(n, seed):
        x = orders(n, seed)
        return changed(x, GROSS, np.round(x[:, GROSS], 1))

    preprocessing = Preprocessing(ORDERS, rounded(2_000, 0))
    to_tenths = preprocessing, rules_of(preprocessing, rounded(2_000, 0), folds(2_000), seed=0)
    x = rounded(500, 6)
    assert (told(to_tenths, x)[0] == 0).all()
    off, _ = told(to_tenths, changed(x, GROSS, x[:, GROSS] + 0.5))
    np.testing.assert_allclose(off, np.log(2_001), rtol=1e-4)


def test_numbers_beyond_all_measure_are_judged_too():
    x = torch.from_numpy(orders(2_000)[:, [NET, TAX, GROSS]] / 1e4)  # whose weights are large
    relations = relations_of(x, torch.ones_like(x))
    for value in (3e38, -3e38):
        broken = relations(torch.tensor([[value, 0.001, 0.002], [value, 0.001, value]]), torch.ones(2, 3))
        np.testing.assert_allclose(broken.sum(1), [1, 0], rtol=1e-5)  # of the second only last bits are left


def test_what_comes_by_chance_is_no_rule():
    draw = np.random.default_rng(0)
    features = [Feature(name=name, kind="numeric") for name in "abcd"]
    features += [Feature(name=name, kind="categorical", categories=tuple("pqrst")) for name in "ef"]
    codes = draw.choice(5, (300, 2), p=[0.5, 0.3, 0.17, 0.02, 0.01])  # rare levels may never have met
    x = np.hstack([draw.normal(size=(300, 4)), codes]).astype(np.float32)
    preprocessing = Preprocessing(features, x)
    assert rules_of(preprocessing, x, folds(300), seed=0) is None


@pytest.mark.parametrize("ties", [TIES - 1, TIES])
def test_a_bound_is_one_where_enough_records_lie_at_it(ties):
    draw = np.random.default_rng(0)
    a = np.concatenate([np.zeros(ties), draw.uniform(0.1, 1, 300 - ties)])
    draw.shuffle(a)
    x = np.column_stack([a, draw.normal(size=300)]).astype(np.float32)
    features = [Feature(name=name, kind="numeric") for name in "ab"]
    rules = rules_of(Preprocessing(features, x), x, folds(300), seed=0)
    assert (rules is not None) == (ties >= TIES)


def test_a_column_of_one_value_without_a_fold_has_no_bound_there():
    """All of the table has two, or it would not have the column: no such rule judges what is scored."""
    draw = np.random.default_rng(0)
    x = np.column_stack([np.zeros(400), draw.normal(size=400)]).astype(np.float32)
    x[[3, 7, 11], 0] = 1  # all of one fold
    features = [Feature(name=name, kind="numeric") for name in "ab"]
    preprocessing, fold = Preprocessing(features, x), folds(400)
    rules = rules_of(preprocessing, x, fold, seed=0)
    assert len(set(fold[[3, 7, 11]])) == 1
    with torch.no_grad():
        assert (rules.honest(preprocessing(torch.from_numpy(x)), torch.from_numpy(fold.astype(np.int64))).value == 0).all()
    assert (float(rules.every.low[0]), float(rules.every.high[0])) == (0, pytest.approx(FLOAT32_MOST))


def test_a_column_that_is_one_value_or_missing_has_bounds():
    draw = np.random.default_rng(0)
    x = np.column_stack([np.where(draw.random(400) < 0.4, np.nan, 5.5), draw.normal(size=400)]).astype(np.float32)
    features = [Feature(name="a", kind="numeric", missing_rate=0.4), Feature(name="b", kind="numeric")]
    preprocessing = Preprocessing(features, x)
    rules = rules_of(preprocessing, x, folds(400), seed=0)
    with torch.no_grad():
        value = rules(preprocessing(torch.tensor([[5.5, 0], [np.nan, 0], [7, 0], [5, 0]]))).value[:, 0]
    np.testing.assert_allclose(value, [0, 0, np.log(401), np.log(401)], rtol=1e-6)


def test_a_column_of_one_value_or_none_without_a_fold_has_its_bound_there():
    """For the whole table may have such columns, whose bounds new records break as often."""
    draw = np.random.default_rng(0)
    x = np.column_stack([np.where(draw.random(400) < 0.2, np.nan, 0), draw.normal(size=400)]).astype(np.float32)
    x[[3, 7, 11], 0] = 1  # all of one fold
    features = [Feature(name="a", kind="numeric", missing_rate=0.2), Feature(name="b", kind="numeric")]
    preprocessing, fold = Preprocessing(features, x), folds(400)
    rules = rules_of(preprocessing, x, fold, seed=0)
    with torch.no_grad():
        honest = rules.honest(preprocessing(torch.from_numpy(x)), torch.from_numpy(fold.astype(np.int64))).value[:, 0]
    assert torch.nonzero(honest)[:, 0].tolist() == [3, 7, 11]


def test_a_column_of_one_value_in_all_that_trained_has_its_bound_in_folds_too():
    """The table has another value, in a record that is held out: what calibrates breaks the rule that is scored by."""
    x = np.column_stack([np.full(400, 7), np.random.default_rng(0).normal(size=400)]).astype(np.float32)
    features = [Feature(name=name, kind="numeric") for name in "ab"]
    rules = rules_of(Preprocessing(features, x), x, folds(400), seed=0)
    assert [(float(one.low[0]), float(one.high[0])) for one in (rules.every, *rules.folds)] == [(7, 7)] * 5


def test_rules_that_no_fold_has_count_as_if_none_had_broken_them():
    """Two levels would meet in 20 of 500 records by chance, and without any fold in fewer than the 15 that show it there."""
    a, b, fold = np.zeros(500), np.zeros(500), np.repeat(np.arange(4), 125)
    for k, (of_a, of_b) in enumerate([(26, 24), (26, 24), (24, 26), (24, 26)]):
        a[125 * k : 125 * k + of_a], b[125 * k + 60 : 125 * k + 60 + of_b] = 1, 1
    x = np.column_stack([a, b]).astype(np.float32)
    preprocessing = Preprocessing([Feature(name=name, kind="boolean") for name in "ab"], x)
    rules = rules_of(preprocessing, x, fold.astype(np.int8), seed=0)
    assert all(one.empty for one in rules.folds)
    slots = preprocessing(torch.from_numpy(np.concatenate([x, [[1, 1]]], dtype=np.float32)))
    with torch.no_grad():
        assert not rules.honest(slots.take(torch.arange(500)), torch.from_numpy(fold)).value.any()
        assert float(rules(slots).value[500, 0]) == pytest.approx(np.log(501))


UP = np.repeat(np.arange(10), 30)


@pytest.mark.parametrize("column", [UP, UP[::-1], None], ids=["up", "down", "years"])
def test_what_moves_with_time_has_no_bound(column):
    draw = np.random.default_rng(0)
    moving = draw.integers(2019, 2025, 300) if column is None else column
    x = np.column_stack([moving, draw.normal(size=300)]).astype(np.float32)
    features = [Feature(name=name, kind="numeric", integer=True) for name in "ab"]
    rules = rules_of(Preprocessing(features, x), x, folds(300), seed=0)
    assert (rules.every.bounded, rules.every.whole.tolist()) == (False, [1, 0])


def test_levels_are_also_the_values_of_a_number_that_has_few():
    draw = np.random.default_rng(0)
    kind = draw.integers(0, FEW, 1_000)
    member = np.where(kind == 0, 0, draw.integers(0, 2, 1_000))
    x = np.column_stack([kind, member, draw.normal(size=1_000)]).astype(np.float32)
    features = [Feature(name=name, kind="numeric") for name in "abc"]
    preprocessing = Preprocessing(features, x)
    rules = rules_of(preprocessing, x, folds(1_000), seed=0)
    assert np.count_nonzero(kind == 0) * np.count_nonzero(member) / 1_000 > MEETINGS
    never = changed(changed(x[:20], 0, 0), 1, 1)
    with torch.no_grad():
        assert (rules(preprocessing(torch.from_numpy(never))).value > 0).all()
        assert (rules(preprocessing(torch.from_numpy(x))).value == 0).all()


def test_a_relation_is_found_though_some_records_break_it():
    x = orders(3_000, seed=7)[:, [NET, TAX, GROSS, NOISE]]
    wrong = np.random.default_rng(1).permutation(3_000)[:30]
    x[wrong, 2] *= 1.5
    relations = relations_of(torch.from_numpy(x), torch.ones(3_000, 4))
    broken = relations(torch.from_numpy(x), torch.ones(3_000, 4)).numpy()
    assert np.array_equal(np.flatnonzero(broken.any(1)), np.sort(wrong))
    assert broken[wrong].all(0).tolist() == [True, True, True, False]


def test_a_training_record_that_breaks_a_relation_is_judged_once():
    """By the rules without its own fold alone, though those without others have the relation, too."""
    x, fold = orders(3_000, seed=7), folds(3_000)
    wrong = np.random.default_rng(1).permutation(3_000)[:30]
    x[wrong, GROSS] *= 1.5
    preprocessing = Preprocessing(ORDERS, x)
    rules = rules_of(preprocessing, x, fold, seed=0)
    with torch.no_grad():
        honest = rules.honest(preprocessing(torch.from_numpy(x)), torch.from_numpy(fold.astype(np.int64))).value[:, 0].numpy()
    np.testing.assert_allclose(honest[wrong], rules.nats["relations"], rtol=1e-5)
    assert rules.nats["relations"] == pytest.approx(np.log(3_001 / 31))
    assert not honest[np.setdiff1d(np.arange(3_000), wrong)].any()


def test_relations_that_share_columns_are_told_apart():
    draw = np.random.default_rng(0)
    a, b, c = np.round(draw.lognormal(4, 1, (3, 2_000)), 2)
    x = np.column_stack([a, b, a + b, c, a + b - c, draw.normal(size=2_000)]).astype(np.float32)
    there = torch.ones(2_000, 6)
    relations = relations_of(torch.from_numpy(x), there)
    assert relations.weight.shape[1] == 2
    for column, n in ((4, 1), (5, 0)):
        broken = relations(torch.from_numpy(changed(x, column, x[:, column] + 50)), there).numpy()
        np.testing.assert_allclose(broken.sum(1), n, rtol=1e-5)


def test_no_relation_is_found_in_columns_that_hardly_vary_or_are_merely_alike():
    draw = np.random.default_rng(0)
    rare = (draw.random((2_000, 3)) < 0.005) * draw.normal(size=(2_000, 3))
    alike = draw.normal(size=(2_000, 1)) + 0.01 * draw.normal(size=(2_000, 2))
    x = torch.from_numpy(np.hstack([rare, alike]).astype(np.float32))
    assert relations_of(x, torch.ones_like(x)) is None


def test_training_records_are_judged_by_rules_without_their_fold():
    """One that lies beyond what the others have in common breaks it, and what a fold alone breaks makes rules weaker."""
    x = orders(400, seed=8)
    x[:TIES, STARS] = 0  # all of the first fold: without it, 1 is the bound
    preprocessing, fold = Preprocessing(ORDERS, x), np.repeat(np.arange(4), 100).astype(np.int8)
    rules = rules_of(preprocessing, x, fold, seed=0)
    rate = {kind: np.exp(-nats) for kind, nats in rules.nats.items()}
    assert rate == pytest.approx({"bounds": (TIES + 1) / 401} | dict.fromkeys(["whole", "apart", "relations"], 1 / 401))
    slots = preprocessing(torch.from_numpy(x))
    with torch.no_grad():
        assert (rules(slots).value == 0).all()
        honest = rules.honest(slots, torch.from_numpy(fold.astype(np.int64)))
    assert torch.nonzero(honest.value[:, 0])[:, 0].tolist() == list(range(TIES))


def test_a_kind_that_was_never_broken_counts_as_much_whatever_others_are():
    """Levels that meet for the first time now and then do not make a sum that was always right weaker; together both count."""
    x = orders(400, seed=8)
    x[:TIES, STARS] = 0
    preprocessing, fold = Preprocessing(ORDERS, x), np.repeat(np.arange(4), 100).astype(np.int8)
    rules = rules_of(preprocessing, x, fold, seed=0)
    usual = x[200:201]
    cases = np.concatenate([changed(usual, STARS, 9), changed(usual, GROSS, 1e4), changed(changed(usual, STARS, 9), GROSS, 1e4)])
    with torch.no_grad():
        value, parts = rules(preprocessing(torch.from_numpy(cases)))
    weak, strong = np.log(401 / (TIES + 1)), np.log(401)
    np.testing.assert_allclose(value[:, 0], [weak, strong, np.hypot(weak, strong)], rtol=1e-5)
    np.testing.assert_allclose(parts.sum(1), value[:, 0], rtol=1e-5)
    np.testing.assert_allclose(parts[2, STARS] / value[2, 0], weak**2 / (weak**2 + strong**2), rtol=1e-5)


def test_golden_records_break_each_kind_of_rule_and_some_of_them_none(scorers):
    """So that a graph with another weight of any kind is refused."""
    scorer, _ = scorers
    session = Session(export(scorer)["scorer.onnx"], 7, "cpu")
    golden = golden_records(session, scorer, orders(300, seed=5), ORDERS)
    x = np.array([record.x for record in golden], np.float32)
    with torch.no_grad():
        broken = scorer.rules.every(scorer.preprocessing(torch.from_numpy(x)))
    assert {kind for kind, found in broken.items() if found.any()} == {"bounds", "whole", "apart", "relations"}
    assert (sum(broken.values()).sum(1) == 0).any()


def test_the_exported_graph_tells_what_the_modules_and_an_oracle_do(scorers):
    scorer, _ = scorers
    x = np.concatenate([orders(40, seed=9), *(breaks(orders(10, seed=10)) for breaks, _ in BROKEN.values())])
    x = np.concatenate([x, np.full((1, 7), np.nan, np.float32), changed(x[:1], NET, 3e38), changed(x[:1], TAX, -3e38)])
    session = Session(export(scorer)["scorer.onnx"], x.shape[1], "cpu")
    together = session.run(x, explain=True)
    with torch.no_grad():
        meant = scorer(torch.from_numpy(x))
        nats = scorer.rules(scorer.preprocessing(torch.from_numpy(x))).value[:, 0].numpy()
    expected = [np.log(2_001) * np.sqrt(broken_by_hand(record)) for record in x.astype(np.float64)]
    np.testing.assert_allclose(nats, expected, rtol=1e-5)
    assert np.isfinite(together.contributions).all()
    np.testing.assert_allclose(together.score, meant.score[:, 0].numpy(), rtol=1e-4)
    np.testing.assert_allclose(together.contributions.sum(1), together.score, rtol=1e-5)
    for i, record in enumerate(x):
        assert session.run(record[None], explain=True).score.tobytes() == together.score[i : i + 1].tobytes()


def broken_by_hand(record):
    """How many of the seven rules a record breaks."""
    sum_holds = abs(record[NET] + record[TAX] - record[GROSS]) < 0.5
    if np.isnan(record).all():
        return 0
    whole = record[STARS] == np.floor(record[STARS])
    negative = sum(record[column] <= 0 for column in (NET, TAX, GROSS))
    return (
        negative
        + (not 1 <= record[STARS] <= 5)
        + (not whole)
        + (record[PRODUCT] == LOAN and not record[CHECKED])
        + (not sum_holds)
    )


@pytest.mark.parametrize("how", BROKEN)
def test_records_that_break_a_rule_score_above_all_that_calibrate(scorers, how):
    known, unknown = scorers
    calibration, odd = orders(500, seed=1), BROKEN[how][0](orders(100, seed=11))
    with torch.no_grad():
        least, usual = (scorer(torch.from_numpy(odd)).score[:, 0].numpy() for scorer in (known, unknown))
        bar, usual_bar = (np.quantile(scorer(torch.from_numpy(calibration)).score[:, 0].numpy(), 0.99) for scorer in scorers)
    assert (least > bar).mean() > 0.99
    assert np.median(least - bar) > np.median(usual - usual_bar)


def test_without_rules_the_graph_is_that_of_before(scorers):
    """Not a node more, where there is no rule, or where none is wanted."""
    _, unknown = scorers
    assert unknown.rules is None
    assert b"rules" not in export(unknown)["scorer.onnx"]


def test_the_rules_are_told_in_words(fitted):
    preprocessing, rules = fitted
    *told, relation, pair = in_words(describe_rules(rules.every, preprocessing, ORDERS), ORDERS)
    assert told == ["net, tax, gross: more than 0", "stars: from 1 to 5", "stars: whole numbers"]
    assert re.fullmatch(r"net \+ tax - gross is 0, within 0\.\d+", relation)
    assert pair == "checked false: never with product loan"
    assert in_words(None, ORDERS) == []


cells = st.dictionaries(
    st.sampled_from(range(len(ORDERS))), st.sampled_from([np.nan, 0.0, 1.0, 2.0, 2.5, 3.0, 6.0, 1e6]), max_size=3
)


@given(st.lists(cells, min_size=1, max_size=20))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_service_names_the_rules_that_the_graph_sees_broken(fitted, changes):
    preprocessing, rules = fitted
    x = orders(len(changes), seed=12)
    for record, cells in zip(x, changes, strict=True):
        for column, value in cells.items():
            record[column] = min(value, {CHECKED: 1, PRODUCT: 3}.get(column, np.inf))
    _, parts = told(fitted, x)
    words = Judge(describe_rules(rules.every, preprocessing, ORDERS), ORDERS).broken(x)
    for broken, lines in zip(parts, words, strict=True):
        named = {feature.name for feature in ORDERS for line in lines if re.search(rf"\b{feature.name}\b", line)}
        assert named == {ORDERS[j].name for j in np.flatnonzero(broken)}


@pytest.mark.parametrize("new_are_alone", [True, False])
def test_rare_and_new_levels_are_told_by_their_codes(new_are_alone):
    """Of 100 shops those from the 63rd on share a slot; new ones have their own where training hardly has shops of one record."""
    draw = np.random.default_rng(0)
    shop = np.concatenate([draw.integers(0, 62, 6_000), draw.integers(62, 100, 2_000)])
    if not new_are_alone:
        shop[:: 8_000 // 30] = np.arange(100, 100 + len(shop[:: 8_000 // 30]))
    known = int(shop.max()) + 1
    paid = np.where(shop >= 62, 0, draw.integers(0, 2, 8_000))
    x = np.column_stack([shop, paid]).astype(np.float32)
    features = [
        Feature(name="shop", kind="categorical", categories=tuple(f"s{i}" for i in range(known))),
        Feature(name="paid", kind="boolean"),
    ]
    preprocessing = Preprocessing(features, x)
    rules = rules_of(preprocessing, x, folds(8_000), seed=0)
    described = describe_rules(rules.every, preprocessing, features)
    levels = "a rare one" if new_are_alone else "s62, a rare or new one"
    assert in_words(described, features) == [f"paid true: never with shop {levels}"]
    cases = np.float32([[known - 1, 1], [known, 1], [62, 1], [3, 1], [known - 1, 0]])
    with torch.no_grad():
        seen = rules(preprocessing(torch.from_numpy(cases))).value[:, 0].numpy() > 0
    assert [bool(lines) for lines in Judge(described, features).broken(cases)] == seen.tolist()
    assert seen.tolist() == [True, not new_are_alone, True, False, False]


SALES = ("quantity", "price", "total", "bonus", "paid", "due", "discount", "net")
QUANTITY, PRICE, TOTAL, BONUS, PAID, DUE, DISCOUNT, NET_TOTAL = range(8)


def sales(n, seed=0):
    """x (n, 8) of SALES: the total is quantity times price, what is due is that and a bonus, which most have not; paid is at most
    the total, and often it; the net is what a discount of some percent leaves of the total."""
    draw = np.random.default_rng(seed)
    quantity, price = draw.integers(1, 12, n), np.round(draw.lognormal(3, 1, n), 2)
    total = np.round(quantity * price, 2)
    bonus = np.where(draw.random(n) < 0.9, 0, np.round(draw.lognormal(2, 1, n), 2))
    paid = np.where(draw.random(n) < 0.5, total, np.round(total * draw.random(n), 2))
    discount = draw.choice([0, 0, 5, 10, 25], n)
    net = np.round(total * (1 - discount / 100), 4)
    return np.column_stack([quantity, price, total, bonus, paid, total + bonus, discount, net]).astype(np.float32)


@pytest.fixture(scope="module")
def sold():
    """(preprocessing, rules, features) of 3,000 sales."""
    features = [Feature(name=name, kind="numeric", integer=name == "quantity") for name in SALES]
    preprocessing = Preprocessing(features, sales(3_000))
    return preprocessing, rules_of(preprocessing, sales(3_000), folds(3_000), seed=0), features


def test_products_pairs_and_sums_with_a_rare_addend_are_rules(sold):
    preprocessing, rules, features = sold
    told = in_words(describe_rules(rules.every, preprocessing, features), features)
    for rule in (
        "paid never above total",
        "total + bonus - due is 0",
        "quantity × price / total is 1",
        "total × (100 - discount) / net is 100",
    ):
        assert any(line.startswith(rule) for line in told), (rule, told)
    assert not broken_of(rules, preprocessing, sales(2_000, 1)).any()
    assert not any(Judge(describe_rules(rules.every, preprocessing, features), features).broken(sales(2_000, 1)))


def broken_of(rules, preprocessing, x):
    """(N, F) how many rules of all kinds records break."""
    with torch.no_grad():
        return sum(rules.every(preprocessing(torch.from_numpy(x))).values()).numpy()


WRONG = {
    "a product": (lambda x: changed(x, QUANTITY, x[:, QUANTITY] + 1), "quantity × price / total"),
    "a pair": (lambda x: changed(x, PAID, x[:, TOTAL] * 1.2 + 1), "paid never above total"),
    "a sum": (lambda x: changed(x, BONUS, x[:, BONUS] + 1), "total + bonus - due"),
    "a percentage": (lambda x: changed(x, DISCOUNT, x[:, DISCOUNT] + 10), "total × (100 - discount) / net"),
    "a sign": (lambda x: changed(x, BONUS, -1), "bonus: 0 or more"),
    "a nothing": (lambda x: changed(x, PRICE, 0), "price: more than 0"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_product_pair_or_sum_is_seen_and_named(sold, what):
    preprocessing, rules, features = sold
    breaks, words = WRONG[what]
    x = breaks(sales(500, 2))
    assert broken_of(rules, preprocessing, x).sum(1).min() > 0.99
    named = Judge(describe_rules(rules.every, preprocessing, features), features).broken(x)
    assert all(any(line.startswith(words) for line in lines) for lines in named)


def test_products_say_nothing_of_what_is_not_positive_or_missing(sold):
    preprocessing, rules, _ = sold
    for value in (np.nan, 0, -5):
        x = changed(changed(sales(50, 3), QUANTITY, 3), PRICE, value)
        assert not any(products(*numbers_of(preprocessing, x)).any() for products in rules.every.products)


def numbers_of(preprocessing, x):
    slots = preprocessing(torch.from_numpy(x))
    return slots.numbers, 1 - slots.hidden[:, preprocessing.numeric]


def test_what_an_exact_relation_tells_is_expected(sold):
    preprocessing, rules, _ = sold
    x = sales(500, 4)
    for column in (QUANTITY, PRICE, TOTAL, BONUS, DUE, DISCOUNT, NET_TOTAL):
        wrong = changed(x, column, x[:, column] * 3 + 5)
        for places, told, known in rules.every.solved(preprocessing(torch.from_numpy(wrong))):
            for j in torch.nonzero(places == column)[:, 0].tolist():
                assert known[:, j].all()
                np.testing.assert_allclose(told[:, j], x[:, column], rtol=1e-3, atol=2e-3)


def test_what_numbers_of_any_size_tell_is_a_number(sold):
    preprocessing, rules, _ = sold
    x = sales(40, 5)
    x[:, TOTAL] = np.repeat(np.float32([3e38, -3e38, 1e-38, 0]), 10)
    x[::2, DUE], x[::3, QUANTITY] = 3e38, 3e38
    for _, told, _ in rules.every.solved(preprocessing(torch.from_numpy(x))):
        assert torch.isfinite(told).all()


def test_levels_that_a_rule_excludes_are_not_expected(scorers):
    """A loan is always checked: of one that is not, another product is expected, and of a loan that it is checked."""
    scorer, _ = scorers
    x = changed(changed(orders(200, seed=13), PRODUCT, LOAN), CHECKED, 0)
    with torch.no_grad():
        slots = scorer.preprocessing(torch.from_numpy(x))
        expected = scorer.expected(slots, scorer.ensemble(slots)[1]).numpy()
    assert (expected[:, PRODUCT] != LOAN).all()
    assert (expected[:, CHECKED] > 0.5).all()


@pytest.mark.parametrize("scale", [1e-25, 1e-9, 1e14, 3e16, 1e30])
def test_relations_of_numbers_of_any_size_are_found_or_left_alone(scale):
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(2, 500))
    x = (np.column_stack([a, b, a + b]) * scale).astype(np.float32)
    relations = relations_of(torch.from_numpy(x), torch.ones(500, 3))
    if relations is not None:
        broken = relations(torch.from_numpy(x), torch.ones(500, 3))
        assert torch.isfinite(broken).all()
        assert not broken.any()


def test_a_column_that_is_constant_where_the_others_are_there_ends_no_fit():
    draw = np.random.default_rng(0)
    x = draw.normal(size=(600, 4)).astype(np.float32)
    there = np.ones((600, 4), np.float32)
    x[:, 0], there[:80, 0] = 5, 0
    x[550:, 0], there[550:, 1] = 7, 0  # another value only where the next is missing
    assert relations_of(torch.from_numpy(x * there), torch.from_numpy(there)) is None


def test_relations_do_not_depend_on_the_directions_that_were_found():
    """Null directions of several relations are any rotation of each other, by the build of LAPACK."""
    draw = np.random.default_rng(0)
    basis = np.linalg.qr(draw.normal(size=(9, 3)))[0]
    rotated = [sparse(basis @ np.linalg.qr(draw.normal(size=(3, 3)))[0]) for _ in range(5)]
    for other in rotated[1:]:
        np.testing.assert_allclose(other, rotated[0], atol=1e-9)


def test_small_tables_have_no_rule_that_folds_lack_for_want_of_records():
    """Else records that calibrate, which rules without their fold judge, break fewer than new ones do."""
    draw = np.random.default_rng(0)
    x = np.round(draw.normal(size=(120, 6)) * 2).astype(np.float32)
    x[:4, :] += np.eye(6, dtype=np.float32)[:4] * 0.5
    features = [Feature(name=name, kind="numeric") for name in "abcdef"]
    preprocessing = Preprocessing(features, x)
    rules = rules_of(preprocessing, x[4:124], folds(116), seed=0)
    for one in rules.folds:
        assert torch.equal(one.whole, rules.every.whole)
    assert rules.every.whole.all()


def test_numbers_that_float32_has_no_fractions_of_are_no_whole_ones():
    draw = np.random.default_rng(0)
    x = np.column_stack([draw.lognormal(20, 0.5, 500), draw.integers(0, 9, 500)]).astype(np.float32)
    assert whole_numbers(torch.from_numpy(x), torch.ones(500, 2)).tolist() == [0, 1]


def test_signs_are_rules_where_numbers_would_have_crossed_them():
    n, draw = 50_000, np.random.default_rng(0)
    columns = {
        "amount": (draw.lognormal(3, 1, n), (POSITIVE, FLOAT32_MOST)),
        "whole": (np.floor(draw.lognormal(3, 1, n)), (0, FLOAT32_MOST)),
        "below": (-draw.lognormal(3, 1, n), (-FLOAT32_MOST, -POSITIVE)),
        "mixed": (draw.normal(size=n), (-FLOAT32_MOST, FLOAT32_MOST)),
        "far": (draw.normal(50, 5, n), (-FLOAT32_MOST, FLOAT32_MOST)),
        # of so many 128 normal ones would be below 0, but that is no fiftieth
        "merely far": (np.abs(draw.normal(2.8, 1, n)), (-FLOAT32_MOST, FLOAT32_MOST)),
    }
    x = torch.from_numpy(np.column_stack([column for column, _ in columns.values()]).astype(np.float32))
    found = zip(*(end.tolist() for end in bounds_of(x, torch.ones_like(x))), strict=True)
    meant = [tuple(float(np.float32(end)) for end in ends) for _, ends in columns.values()]
    assert list(found) == meant


def test_of_numbers_in_order_only_neighbours_are_pairs():
    draw = np.random.default_rng(0)
    low, more, most = draw.integers(0, 50, 2_000), *draw.integers(0, 3, (2, 2_000))
    x = torch.from_numpy(np.column_stack([low, low + more, low + more + most]).astype(np.float32))
    pairs = pairs_of(x, torch.ones_like(x))
    assert list(zip(pairs.lesser.tolist(), pairs.greater.tolist(), strict=True)) == [(0, 1), (1, 2)]


def test_a_number_is_told_by_the_relation_that_tells_it_the_most_closely():
    """A total by its parts, to the cent, and not by a tax of it that is rounded to whole numbers."""
    draw = np.random.default_rng(0)
    a, b = np.round(draw.uniform(1e4, 9e5, (2, 3_000)))
    x = torch.from_numpy(np.column_stack([a, b, a + b, np.round((a + b) * 0.11)]).astype(np.float32))
    relations = relations_of(x, torch.ones_like(x))
    assert relations.weight.shape[1] == 2
    solutions = Solutions(relations)
    told, known = solutions(x, torch.ones_like(x))
    total = solutions.columns.tolist().index(2)
    assert known[:, total].all()
    np.testing.assert_allclose(told[:, total], x[:, 2], atol=0.5)


def test_a_sum_that_the_few_with_an_addend_do_not_keep_is_none():
    """Of 100 records one has a bonus; that 99 keep to the sum without it says nothing of it."""
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(2, 4_000)) * 100
    bonus = np.where(draw.random(4_000) < 0.01, draw.normal(size=4_000) * 100, 0)
    unrelated = np.where(bonus != 0, draw.normal(size=4_000) * 100, 0)
    x = torch.from_numpy(np.column_stack([a, b, a + b, bonus, unrelated]).astype(np.float32))
    relations = relations_of(x, torch.ones_like(x))
    assert relations.weight.shape[1] == 1
    assert torch.nonzero(relations.weight[:, 0])[:, 0].tolist() == [0, 1, 2]


def test_products_that_rounding_or_one_in_a_hundred_breaks_or_of_high_powers_are_none():
    draw = np.random.default_rng(0)
    quantity, price = draw.integers(1, 9, 3_000), draw.lognormal(0, 1, 3_000)
    rounded = np.column_stack([quantity, price, np.round(quantity * price, 1), draw.normal(size=3_000)])
    length = draw.lognormal(0, 0.3, 3_000)
    for x in (rounded, np.column_stack([length, length**5, draw.normal(size=3_000)])):
        numbers = torch.from_numpy(x.astype(np.float32))
        assert products_of(numbers, torch.ones_like(numbers)) == []
    broken = np.column_stack([quantity, price, quantity * price, draw.normal(size=3_000)])
    broken[:30, 2] *= 1.5  # one in a hundred
    assert products_of(torch.from_numpy(broken.astype(np.float32)), torch.ones(3_000, 4)) == []
    cubes = torch.from_numpy(np.column_stack([length, length**3, draw.normal(size=3_000)]).astype(np.float32))
    assert len(products_of(cubes, torch.ones_like(cubes))) == 1


def test_a_few_huge_numbers_make_no_relation_of_all_others():
    draw = np.random.default_rng(0)
    x = np.column_stack([draw.random(2_000) * 1e3, draw.random(2_000), draw.normal(size=2_000)])
    x[:5, 0] = 1e12
    assert relations_of(torch.from_numpy(x.astype(np.float32)), torch.ones(2_000, 3)) is None


def test_bounds_and_values_are_told_in_the_digits_of_float32():
    rules = Rules(bounds=(Bounds(feature="cap", high=1234567.0), Bounds(feature="share", low=float(np.float32(0.1)), high=0.75)))
    assert in_words(rules, ORDERS) == ["cap: 1234567 or less", "share: from 0.1 to 0.75"]
