"""A tiny bundle with features of all kinds, published as training would, but with a graph that a reader can check by hand.

score = the sum over features of |value|, 0.5 where it is missing; elbo = -score / 2; reconstruction error = score / 4.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from service import calibration
from service.manifest import FILES, SCHEMA_VERSION, Calibration, Dropped, Feature, File, Golden, Manifest, Rules, Scalar
from service.session import Session

FEATURES = (
    Feature(name="amount", kind="numeric", low=0, high=1000),
    Feature(name="count", kind="numeric", integer=True, low=0, high=20, missing_rate=0.1),
    Feature(name="country", kind="categorical", categories=("at", "de", "fr")),
    Feature(name="level", kind="categorical", integer=True, categories=(10, 20), missing_rate=0.1),
    Feature(name="online", kind="boolean", missing_rate=0.1),
    Feature(name="at", kind="datetime", missing_rate=0.1),
)
NUMBERS = tuple(Feature(name=f"f{i}", kind="numeric", low=0, high=1000) for i in range(4))
CALIBRATION = 199
GOOD = {"amount": 12.5, "count": 3, "country": "de", "level": 20, "online": True, "at": "2026-03-02T14:30:00"}
ODD = {"amount": 100000.0, "count": 3, "country": "xx", "level": 20, "online": False, "at": "2026-03-02T14:30:00"}


def scorer(features: tuple[Feature, ...], scale: float = 1.0) -> bytes:
    """The graph: x (n, C) -> score, elbo, reconstruction_error, contributions (n, T), expected (n, C)."""
    width = sum(feature.width for feature in features)
    weights: list[Any] = []

    def constant(name: str, value: Any) -> str:
        weights.append(numpy_helper.from_array(np.asarray(value, dtype=np.float32), name))
        return name

    sums = np.zeros((width, len(features)), np.float32)
    start = 0
    for place, feature in enumerate(features):
        sums[start : start + feature.width, place] = scale
        start += feature.width
    node = helper.make_node
    nodes = [
        node("IsNaN", ["x"], ["missing"]),
        node("Where", ["missing", constant("half", [0.5]), "x"], ["filled"]),
        node("Abs", ["filled"], ["size"]),
        node("MatMul", ["size", constant("sums", sums)], ["contributions"]),
        node("MatMul", ["contributions", constant("ones", np.ones((len(features), 1)))], ["score"]),
        node("Mul", ["score", constant("m", [-0.5])], ["elbo"]),
        node("Mul", ["score", constant("q", [0.25])], ["reconstruction_error"]),
        node("Mul", ["filled", constant("zero", [0.0])], ["nothing"]),
        node("Add", ["nothing", constant("typical", np.linspace(0.1, 1.0, width))], ["expected"]),
    ]
    info = helper.make_tensor_value_info
    shapes = [("score", 1), ("elbo", 1), ("reconstruction_error", 1), ("contributions", len(features)), ("expected", width)]
    outputs = [info(name, TensorProto.FLOAT, ["n", columns]) for name, columns in shapes]
    graph = helper.make_graph(nodes, "scorer", [info("x", TensorProto.FLOAT, ["n", width])], outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def sample(features: tuple[Feature, ...], n: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """x (n, C) of records such as training saw."""
    random = np.random.default_rng(seed)
    columns = []
    for feature in features:
        if feature.kind == "numeric":
            columns.append(random.uniform(0, 20, (n, 1)))
        elif feature.kind == "datetime":
            columns.append(np.stack([random.uniform(0, 24, n), random.integers(0, 7, n), random.integers(1, 13, n)], axis=1))
        else:
            columns.append(random.integers(0, len(feature.categories) or 2, (n, 1)))
    return np.concatenate(columns, axis=1).astype(np.float32)


def publish(
    models_dir: Path,
    name: str = "tiny",
    version: str = "20260101T000000Z-made01",
    *,
    features: tuple[Feature, ...] = FEATURES,
    scale: float = 1.0,
    current: bool = True,
    alpha: float = 0.01,
    dropped: tuple[str, ...] | dict[str, Scalar | None] = (),
    warnings: tuple[str, ...] = (),
    held_out: bool | None = None,
    rules: Rules | None = None,
) -> Path:
    """Writes models_dir/name/version, and CURRENT; the folder of the version."""
    files = {file: file.encode() for file in FILES} | {"scorer.onnx": scorer(features, scale)}
    session = Session(files["scorer.onnx"], sum(feature.width for feature in features), "cpu")
    scores = np.sort(session.run(sample(features, CALIBRATION), explain=False).score)
    x = sample(features, 3, seed=1)
    x[2] = np.nan
    told = session.run(x, explain=True)
    left_out = dropped if isinstance(dropped, dict) else dict.fromkeys(dropped)  # with the values of constants
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=name,
        features=features,
        dropped=tuple(Dropped(column=column, reason="constant", value=value) for column, value in left_out.items()),
        warnings=warnings,
        score_kind="reconstruction",
        alpha=alpha,
        threshold=calibration.threshold(scores, alpha),
        calibration=Calibration(scores=tuple(float(score) for score in scores), held_out=held_out),
        latent=2,
        training={"seed": 0},
        rules=rules,
        metrics={"auroc": 0.9},
        libraries={"torch": "none"},
        golden=tuple(
            Golden(
                x=tuple(None if np.isnan(value) else float(value) for value in x[i]),
                score=float(told.score[i]),
                elbo=float(told.elbo[i]),
                reconstruction_error=float(told.reconstruction_error[i]),
                contributions=tuple(float(value) for value in told.contributions[i]),
                expected=tuple(float(value) for value in told.expected[i]),
            )
            for i in range(len(x))
        ),
        files={file: File(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content)) for file, content in files.items()},
    )
    folder = models_dir / name / version
    folder.mkdir(parents=True)
    for file, content in files.items():
        (folder / file).write_bytes(content)
    (folder / "manifest.json").write_bytes(manifest.dump())
    if current:
        point(models_dir, name, version)
    return folder


def point(models_dir: Path, name: str, version: str) -> None:
    """Makes CURRENT name this version."""
    (models_dir / name / "CURRENT").write_text(version + "\n")
