"""The report: whole, the same each time, readable without a network, and not to be turned against its reader."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from service.manifest import Bounds, Feature, Rules
from service.session import Answers
from training import plots, svg
from training.fit import Curve
from training.report import report

from .made import make_answers, make_inputs, make_manifest, numbers

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</title></style></svg><b>",
    "x' onload='alert(1)",
    "rows\u202eesrever\x00\n",
)
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """What a browser would make of a page: its elements, and whether each is closed."""

    def __init__(self, page):
        super().__init__()
        self.open, self.elements, self.text = [], [], []
        self.feed(page.decode())
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def titles(page):
    return re.findall(r"<figure><h3>([^<]*)", page.decode())


def test_the_same_input_gives_the_same_bytes_and_another_one_others():
    page = report(**make_inputs())
    assert page == report(**make_inputs())
    inputs = make_inputs()
    inputs["error"] = inputs["error"] * 2
    assert page != report(**inputs)


@pytest.mark.parametrize("kind", ["surprise", "elbo", "reconstruction"])
@pytest.mark.parametrize("anomalies", [0, 40])
def test_every_section_and_figure_is_there(kind, anomalies):
    content = report(**make_inputs(kind=kind, anomalies=anomalies))
    page = Page(content)
    sections = [attributes["id"] for attributes in page.all("section")]
    assert sections == ["figures", "weights", "unusual", "card", "data", "settings"]
    assert [attributes["href"] for attributes in page.all("a")] == [f"#{section}" for section in sections]
    labelled = ["ROC", "Precision and recall"] if anomalies else []
    assert titles(content) == ["Scores", "Calibration", "Training", "Latent space", *labelled, "Reconstruction error by feature"]
    text = " ".join(page.text)
    for told in (
        "Limits",
        "p-value",
        "city",
        "currency",
        "the table is small",
        "shop.csv",
        "ab" * 32,
        "1,234",
        "learning rate",
        "numpy",
    ):
        assert told in text
    assert ("labelled anomalies" in text) == bool(anomalies)
    assert ("latent term" in text) == (kind == "elbo")


def test_rules_and_numbers_that_the_others_tell_are_listed_where_there_are_any():
    told = {"settings": {}, "data": {}, "told_by_others": {"amount": 0.987, "age": 0.253}}
    rules = Rules(bounds=(Bounds(feature="amount", low=0),))
    page = Page(report(**make_inputs(training=told, rules=rules)))
    sections = [attributes["id"] for attributes in page.all("section")]
    assert sections == ["figures", "weights", "unusual", "told", "rules", "card", "data", "settings"]
    text = " ".join(page.text)
    assert "amount: 0 or more" in text
    assert re.search(r"amount\s+99\xa0%\s+age\s+25\xa0%", text)
    assert "told_by_others" not in text


def test_the_figures_are_those_of_the_answers():
    inputs = make_inputs()
    held, odd, threshold = inputs["held"].score, inputs["anomalies"].score, inputs["manifest"].threshold
    text = " ".join(Page(report(**inputs)).text)
    label, score = np.repeat([0, 1], [len(held), len(odd)]), np.concatenate([held, odd])
    assert f"AUROC {roc_auc_score(label, score):.3f}" in text
    assert f"Average precision {average_precision_score(label, score):.3f}" in text
    assert f"{100 * (held >= threshold).mean():.3g}\xa0% of the calibration records" in text
    assert f"{100 * (odd >= threshold).mean():.3g}\xa0% of the labelled anomalies" in text


def test_it_is_one_file_that_asks_for_nothing_else_and_runs_nothing():
    content = report(**make_inputs())
    page = Page(content)
    assert page.open == []
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "link", "img", "iframe", "object", "embed", "image", "use"})
    assert not re.search(rb"https?:|//[a-z]|url\(|@import|\ssrc=|javascript:", content)
    policy = [attributes["content"] for attributes in page.all("meta") if "http-equiv" in attributes]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_it_can_be_read_aloud_in_the_dark_and_on_a_phone():
    content = report(**make_inputs())
    page = Page(content)
    assert page.all("html") == [{"lang": "en"}]
    assert all(attributes.get("aria-label") or attributes.get("aria-hidden") for attributes in page.all("svg"))
    assert len(page.all("figure")) == len(page.all("figcaption")) > 0
    assert len(page.all("table")) == len(page.all("thead")) > 0
    assert all(attributes.get("scope") in ("col", "row") for attributes in page.all("th"))
    assert any(attributes.get("name") == "viewport" for attributes in page.all("meta"))
    assert b"prefers-color-scheme:dark" in content


def test_no_name_can_break_out_of_its_place():
    features = tuple(Feature(name=name, kind="numeric", low=0, high=1) for name in HOSTILE)
    features += (Feature(name="kind", kind="categorical", categories=HOSTILE),)
    inputs = make_inputs(
        features=features, warnings=HOSTILE, training={"settings": {"a": HOSTILE[0]}, "data": {HOSTILE[1]: HOSTILE[2]}}
    )
    plain = make_inputs(features=(*numbers(5), Feature(name="kind", kind="categorical", categories=tuple("abcde"))))
    page = Page(report(**inputs))
    assert {tag for tag, _ in page.elements} == {tag for tag, _ in Page(report(**plain)).elements}
    assert not any(attribute.startswith("on") for _, attributes in page.elements for attribute in attributes)
    assert page.open == []
    text = "".join(page.text)
    assert all(name in text for name in HOSTILE[:4])
    assert "\u202e" not in text
    assert "\x00" not in text


@pytest.mark.parametrize("n", [1, 2, 9, 10, 11])
@pytest.mark.parametrize("kind", ["surprise", "elbo"])
def test_few_records_make_a_report_too(n, kind):
    content = report(**make_inputs(n=n, anomalies=1, kind=kind, features=numbers(1), latent=1))
    assert Page(content).open == []
    assert ("Calibration" in titles(content)) == (n >= plots.LEAST)


def test_scores_that_are_all_alike_no_curves_and_no_reasons_make_a_report_too():
    inputs = make_inputs(anomalies=0)
    n = len(inputs["held"].score)
    alike = np.ones(n, np.float32)
    inputs["held"] = Answers(alike, -alike, alike, np.empty((0, 7), np.float32), np.empty((0, 9), np.float32))
    inputs["manifest"] = make_manifest(scores=alike, warnings=(), dropped=())
    inputs |= {"curves": [Curve()], "latent": np.zeros((n, 3), np.float32), "error": np.zeros((n, 7), np.float32)}
    page = Page(report(**inputs))
    assert page.open == []
    assert "NaN" not in " ".join(page.text)


def test_the_least_normal_records_are_listed_by_their_rows():
    inputs = make_inputs()
    looked = inputs["looked"]
    part = report(**inputs).decode().split('id="unusual"')[1].split("</section>")[0]
    listed = [int(row.replace(",", "")) for row in re.findall(r'<th scope="row">([^<]*)', part)]
    assert listed == looked.rows[np.argsort(-looked.score)[:20]].tolist()
    assert part.count("<td>yes</td>") == (np.sort(looked.score)[-20:] >= inputs["manifest"].threshold).sum() > 0
    assert "All 300 records" in part
    inputs["looked"] = looked._replace(score=np.ones_like(looked.score), of=4_321)
    part = report(**inputs).decode().split('id="unusual"')[1]
    assert "300 of the 4,321 records" in part
    assert re.search(r'<th scope="row">([^<]*)', part)[1] == "5,000"  # of equals the first


def test_a_large_model_keeps_the_page_small():
    content = report(**make_inputs(n=20_000, anomalies=3_000, features=numbers(400), latent=64))
    assert len(content) < 500_000
    assert "100 more are in the manifest" in content.decode()
    assert "370 features with the smallest errors" in content.decode()


@pytest.mark.parametrize(
    "wrong",
    [
        {"latent": np.zeros((3, 2), np.float32)},
        {"error": np.zeros((300, 2), np.float32)},
        {"looked": make_inputs()["looked"]._replace(rows=np.arange(4))},
        {"held": make_answers(0, 7)},
    ],
)
def test_inputs_of_different_records_are_refused(wrong):
    with pytest.raises(ValueError, match="do not fit"):
        report(**{**make_inputs(), **wrong})


def test_principal_components_are_those_of_the_whole_decomposition():
    random = np.random.default_rng(0)
    mu = random.normal(size=(500, 40)) * np.linspace(3, 0.1, 40)
    mu[:, 0] *= 3
    mu[:, 1] *= 2
    place, share = plots.principal(mu)
    left, size, _ = np.linalg.svd(mu - mu.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(np.abs(place), np.abs(left * size)[:, :2], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(share, (size**2 / (size**2).sum())[:2], rtol=1e-6)


@pytest.mark.parametrize(
    "axis",
    [
        svg.linear("", -3.2, 17),
        svg.linear("", 5, 5),
        svg.linear("", 0, 1e-9),
        svg.logarithmic("", 1e-4, 0.5),
        svg.adaptive("", np.concatenate([np.linspace(-60, -50, 100), [1e6]])),
        svg.adaptive("", np.random.default_rng(0).standard_cauchy(1_000)),
        svg.adaptive("", np.zeros(5)),
    ],
)
def test_ticks_lie_in_order_on_their_axis_and_apart(axis):
    places = axis.at(axis.ticks)
    assert len(places) >= 2
    assert min(axis.ticks) >= axis.low - 1e-9 * abs(axis.low)
    assert max(axis.ticks) <= axis.high + 1e-9 * abs(axis.high)
    assert (np.diff(places) > 0.08).all()
    assert axis.at([axis.low, axis.high]).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (1234.6, "1,235"),
        (0.01234, "0.0123"),
        (-2.5, "−2.5"),
        (1e-7, "1e−7"),
        (3e9, "3e9"),
        (np.nan, "–"),
    ],
)
def test_numbers_are_short(value, text):
    assert svg.short(value) == text
