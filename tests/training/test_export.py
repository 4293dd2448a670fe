"""What is exported is what was fitted, and a record's answers do not depend on the batch it comes in."""

import numpy as np
import onnx
import pytest
import torch

from service.session import SLICE, Session
from training.export import export

from .mixed import odd_rows, rows

# Operators whose CPU kernels treat the rest of a tensor by another formula may only be used through training/stable.py.
ALLOWED = set(
    """
    Abs Add And ArgMax ArgMin Cast Clip Concat Constant ConstantOfShape Div Equal Exp Expand Gather GatherElements Gemm
    Greater Identity IsNaN Less LessOrEqual Log MatMul Max Min Mul Neg Not Pow Reciprocal ReduceMax ReduceMin Relu Reshape Shape
    Sigmoid Sign Slice Softmax Split Sqrt Squeeze Sub Tanh TopK Transpose Unsqueeze Where
    """.split()  # noqa: SIM905  # a list of words reads better so
)


@pytest.fixture(scope="module")
def session(scorer, graphs):
    return Session(graphs["scorer.onnx"], scorer.preprocessing.columns, "cpu")


def test_one_record_has_one_score_bit_for_bit_in_any_batch(session):
    x = np.concatenate([rows(1_100, seed=5), odd_rows()])
    whole = session.run(x, explain=True)
    order = np.random.default_rng(0).permutation(len(x))
    sizes = [*range(1, 40), 63, 64, 65, 127, 300, SLICE - 1, SLICE, SLICE + 1]
    for size in sizes:
        some = order[:size]
        for explain in (False, True):
            part = session.run(x[some], explain=explain)
            for field in ("score", "elbo", "reconstruction_error"):
                assert np.array_equal(getattr(part, field), getattr(whole, field)[some]), (size, explain, field)
            if explain:
                assert np.array_equal(part.contributions, whole.contributions[some])
                assert np.array_equal(part.expected, whole.expected[some])


def test_contributions_sum_to_the_score(session, scorer):
    answers = session.run(np.concatenate([rows(500, seed=6), odd_rows()]), explain=True)
    total = answers.contributions.sum(1, dtype=np.float64)
    np.testing.assert_allclose(total, answers.score, rtol=1e-5, atol=1e-5)
    if scorer.kind != "elbo":
        assert (answers.contributions >= 0).all()
        assert (answers.score >= 0).all()


def test_every_answer_is_finite_at_the_edges_of_float32(session):
    answers = session.run(odd_rows(), explain=True)
    for field in ("score", "elbo", "reconstruction_error", "contributions", "expected"):
        assert np.isfinite(getattr(answers, field)).all(), field


def test_the_farther_out_the_higher_the_score(session):
    x = np.repeat(rows(1, seed=2), 6, 0)
    x[:, 0] = [4, 40, 400, 4e3, 1e4, 2e4]
    score = session.run(x, explain=False).score
    assert (np.diff(score) > 0).all()


def test_only_operators_that_every_provider_has_and_that_do_not_depend_on_the_batch(graphs):
    for name, content in graphs.items():
        model = onnx.load_from_string(content)
        assert {node.op_type for node in model.graph.node} <= ALLOWED, name
        assert {opset.domain for opset in model.opset_import} <= {""}
        assert not model.metadata_props


def test_the_encoder_and_decoder_graphs_are_the_nets(scorer, graphs):
    from service.session import load

    x = rows(20, seed=9)
    encoder, decoder = (load(graphs[name], "cpu") for name in ("encoder.onnx", "decoder.onnx"))
    mu, log_var = encoder.run(["mu", "log_var"], {"x": x})
    with torch.no_grad():
        slots = scorer.preprocessing(torch.from_numpy(x))
        meant = [net.encoder(slots) for net in scorer.nets]
        decoded = [net.decoder(posterior.mu) for net, posterior in zip(scorer.nets, meant, strict=True)]
        outs, up, down = ([scorer.preprocessing.restore(out + shift) for out in decoded] for shift in (0, 0.1, -0.1))
    np.testing.assert_allclose(mu, torch.cat([p.mu for p in meant], 1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(log_var, torch.cat([p.log_var for p in meant], 1), rtol=1e-4, atol=1e-5)
    expected, deviation, _ = decoder.run(None, {"z": mu})
    np.testing.assert_allclose(expected, torch.cat(outs, 1), rtol=1e-4, atol=1e-4)
    numeric = scorer.preprocessing.numeric.numpy()  # of the first net
    want = (torch.cat(up, 1) - torch.cat(down, 1)).numpy() / 2
    np.testing.assert_allclose(deviation[:, numeric], want[:, numeric], rtol=1e-3, atol=1e-4)


def test_the_same_scorer_exports_to_the_same_bytes(scorer, graphs):
    assert export(scorer) == graphs


def test_expected_values_are_in_the_units_of_x(session):
    """A constant part of a datetime is its constant; the shared slot of the rare levels is no level by name."""
    x = rows(300, seed=8)
    expected = session.run(x, explain=True).expected
    assert (expected[:, 8] == 11).all()  # the month
    assert ((expected[:, 6] >= 0) & (expected[:, 6] <= 24)).all()
    codes = expected[:, 3]
    assert np.isin(codes, [*range(63), 90]).all()
    assert np.abs(np.nanmedian(expected[:, 0] - x[:, 0])) < 2
