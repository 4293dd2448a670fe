"""The ELBO of torch, of ONNX and of the NumPy oracle are one."""

import numpy as np
import pytest
import torch

from service.session import Session
from tests.reference import elbo_numpy, surprise_numpy
from training.parity import RTOL
from training.stable import total

from .conftest import TINY
from .mixed import FEATURES, odd_rows, rows


def oracle(preprocessing, nets, x):
    """Mean over nets of (error (N, F), floor (N, F), kl (N,)) in float64, record by record."""
    fitted = {name: value.double().numpy() for name, value in preprocessing.state_dict().items()}
    parts = []
    for net in nets:
        weights = {name: value.double().numpy() for name, value in net.state_dict().items()}
        told = [elbo_numpy.record_elbo(FEATURES, row.astype(np.float64), fitted, weights, net.sigma) for row in x]
        parts.append([np.array(part) for part in zip(*told, strict=True)])
    return [np.mean(part, axis=0) for part in zip(*parts, strict=True)]


def close(got, want):
    size = np.maximum(np.abs(want).reshape(len(want), -1).max(1), 1)
    return (np.abs(got - want).reshape(len(want), -1).max(1) / size).max()


@pytest.mark.parametrize("x", [rows(40, seed=7), odd_rows()], ids=["usual", "edges"])
def test_torch_and_onnx_agree_with_the_oracle(fitted, scorer, graphs, x):
    preprocessing, nets, *_ = fitted
    error, floor, kl = oracle(preprocessing, nets, x)
    with torch.no_grad():
        evidence, _ = scorer.ensemble(preprocessing(torch.from_numpy(x)))
    assert close(evidence.error.numpy(), error) < RTOL
    assert close(evidence.floor.numpy(), floor) < RTOL
    assert close(evidence.kl.numpy()[:, 0], kl) < RTOL
    answers = Session(graphs["scorer.onnx"], preprocessing.columns, "cpu").run(x, explain=True)
    assert close(answers.reconstruction_error, error.sum(1)) < RTOL
    assert close(answers.elbo, -(error.sum(1) + floor.sum(1) + kl)) < RTOL
    if scorer.kind == "reconstruction":
        assert close(answers.score, error.sum(1)) < RTOL
        assert close(answers.contributions, error) < RTOL
    if scorer.kind == "elbo":
        assert close(answers.score, error.sum(1) + floor.sum(1) + kl) < RTOL
        assert close(answers.contributions, np.column_stack([error + floor, kl])) < RTOL


def test_a_missing_value_adds_nothing(fitted):
    preprocessing, nets, *_ = fitted
    x = rows(5)
    x[:, 0] = np.nan  # amount is never missing in training, so not even its being missing counts
    with torch.no_grad():
        terms, _ = nets[0](preprocessing(torch.from_numpy(x)))
    assert (terms.error[:, 0] == 0).all()
    assert (terms.floor[:, 0] == 0).all()


def test_an_unknown_category_costs_more_than_any_known_one(fitted):
    preprocessing, nets, *_ = fitted
    x = np.repeat(rows(1), 4, 0)
    x[:, 4] = range(4)  # code: three known levels and the unknown one
    with torch.no_grad():
        terms, _ = nets[0](preprocessing(torch.from_numpy(x)))
    cost = terms.error[:, 4].numpy()
    assert cost[3] > cost[:3].max()


def test_a_boolean_is_expected_by_its_probability(fitted):
    preprocessing = fitted[0]
    out = torch.zeros(3, preprocessing.slots)
    out[:, preprocessing.reals] = logits = torch.tensor([-2.0, 0.2, 2.0])
    torch.testing.assert_close(preprocessing.restore(out)[:, int(preprocessing.boolean[0])], logits.sigmoid())


def test_the_levels_of_a_category_have_probabilities_that_sum_to_one(fitted):
    """Also where rare levels share a slot: exp(-error) over all known levels and the unknown one is a distribution."""
    preprocessing, nets, *_ = fitted
    x = np.repeat(rows(1, seed=3), 91, 0)
    x[:, 3] = range(91)
    with torch.no_grad():
        slots = preprocessing(torch.from_numpy(x))
        mu, log_var = nets[0].encoder(slots)
        out = nets[0].decoder(mu[:1].expand_as(mu))  # one decoder's answer for all of them
        from training.elbo import elbo

        error = elbo(preprocessing, slots, [out], mu, log_var, 0.1).error[:, 3]
    assert abs(torch.exp(-error.double()).sum().item() - 1) < 1e-5


def test_the_loss_is_the_mean_of_what_is_scored(fitted):
    preprocessing, nets, x, _ = fitted
    with torch.no_grad():
        terms, _ = nets[0](preprocessing(torch.from_numpy(x)))
        loss = (terms.error + terms.floor).sum(1).mean() + terms.kl.mean()
    torch.testing.assert_close(-terms.nats.mean(), loss)
    torch.testing.assert_close(total(terms.error)[:, 0], terms.error.sum(1))


def test_the_kl_is_that_of_two_gaussians(fitted):
    preprocessing, nets, x, _ = fitted
    with torch.no_grad():
        slots = preprocessing(torch.from_numpy(x[:10]))
        mu, log_var = nets[0].encoder(slots)
        terms, _ = nets[0](slots)
    q = torch.distributions.Normal(mu, torch.exp(0.5 * log_var))
    p = torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu))
    torch.testing.assert_close(terms.kl[:, 0], torch.distributions.kl_divergence(q, p).sum(1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("x", [rows(40, seed=17), odd_rows(seed=2)], ids=["usual", "edges"])
def test_the_surprise_of_torch_and_onnx_agrees_with_the_oracle(fitted, exported, x):
    preprocessing, nets, *_ = fitted
    scorer, graphs = exported("surprise")

    def numbers(module):
        return {name: value.double().numpy() for name, value in module.state_dict().items()}

    white, wide = (part.view for part in scorer.distances)
    views = numbers(white.view) | numbers(white) | {"steps": white.steps}, numbers(wide)
    memory, centres = (numbers(part) | view for part, view in zip(scorer.distances, views, strict=True))
    memory |= {"neighbours": scorer.distances[0].neighbours, "candidates": scorer.distances[0].candidates}
    regressions = numbers(scorer.regressions) | {"begin": scorer.regressions.begin, "slope": scorer.regressions.slope}
    told = [
        surprise_numpy.record_surprise(
            FEATURES,
            row.astype(np.float64),
            numbers(preprocessing),
            [numbers(net) for net in nets],
            memory,
            centres,
            regressions,
            numbers(scorer.presence),
            (*scorer.each.curves, *scorer.together.curves),
            TINY.sigma,
        )
        for row in x
    ]
    score, contributions = (np.array(part) for part in zip(*told, strict=True))
    answers = Session(graphs["scorer.onnx"], preprocessing.columns, "cpu").run(x, explain=True)
    with torch.no_grad():
        meant = scorer(torch.from_numpy(x))
    clear = ~scorer.ambiguous(torch.from_numpy(x), 1e-4).numpy()
    for got, parts in ((answers.score, answers.contributions), (meant.score[:, 0].numpy(), meant.contributions.numpy())):
        assert close(got[clear], score[clear]) < RTOL
        assert close(got, score) < 10 * RTOL
        assert close(parts[clear], contributions[clear]) < RTOL
    assert clear.sum() > len(x) / 2
