"""Functions whose last bit does not depend on the batch that a record comes in.

onnxruntime computes Log, Sin and Cos in packets of up to 16 values and the rest of a tensor one by one, by another formula:
the same value may come out differently by its place. MatMul, Exp, Tanh, Sqrt and single additions and products do not have this.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

PACKET = 16
LEAST = 1e-30  # so that nothing is divided by 0
# arctan(a) / a of a in [0, 1], by powers of its square: Abramowitz & Stegun (1964), 4.4.49, off by 2e-8 at most.
ARCTAN = (
    1, -0.3333314528, 0.1999355085, -0.1420889944, 0.1065626393, -0.0752896400, 0.0429096138, -0.0161657367, 0.0028662257
)  # fmt: skip


def log(v: Tensor) -> Tensor:
    """log of (N, W)."""
    return torch.log(_in_packets(v))[:, : int(v.shape[1])]


def atan2(y: Tensor, x: Tensor) -> Tensor:
    """The angle of (x, y), each (N, W), in (-pi, pi]; of (0, 0) it is 0. The error is below 1e-6.

    Of single products and additions: onnxruntime has no Atan on a GPU.
    """
    along, up = x.abs(), y.abs()
    a = torch.minimum(along, up) / torch.maximum(along, up).clamp(min=LEAST)
    angle = a * _polynomial(ARCTAN, a * a)
    angle = torch.where(up > along, math.pi / 2 - angle, angle)
    angle = torch.where(x < 0, math.pi - angle, angle)
    return torch.where(y < 0, -angle, angle)


def bend(v: Tensor) -> Tensor:
    """sign(v) ((1 + |v|)^(1/8) - 1): straight near 0 and much like a logarithm far off, where asinh would be.

    A Box-Cox transform of both signs (Bickel & Doksum 1981). Unlike a logarithm it is made of square roots, which round alike
    everywhere, so that a distance of two close records is the same distance wherever it is computed.
    """
    return torch.sign(v) * (sqrt(sqrt(sqrt(1 + v.abs()))) - 1)


def sqrt(v: Tensor) -> Tensor:
    """The correctly rounded square root, which onnxruntime gives; torch's own may be a last bit off in float32."""
    return torch.sqrt(v) if torch.onnx.is_in_onnx_export() else torch.sqrt(v.double()).to(v.dtype)


def unbend(v: Tensor) -> Tensor:
    """The inverse of bend."""
    root = 1 + v.abs()
    square = root * root
    return torch.sign(v) * (square * square * (square * square) - 1)


def cos_sin(turn: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of turns (N, W) in [0, 1], by their series around half a turn; the error is below 1e-6."""
    v = (turn - 0.5) * math.pi  # half the angle, in [-pi/2, pi/2]
    cos = _polynomial([(-1) ** k / math.factorial(2 * k) for k in range(7)], v * v)
    sin = v * _polynomial([(-1) ** k / math.factorial(2 * k + 1) for k in range(7)], v * v)
    return 2 * sin * sin - 1, -2 * sin * cos


def total(terms: Tensor) -> Tensor:
    """(N, 1) sums of the rows of (N, T), as a matmul: ReduceSum adds in another order in another batch."""
    return terms @ torch.ones(int(terms.shape[1]), 1, dtype=terms.dtype, device=terms.device)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """(N, W) the parts side by side; the very same tensor, and no node in the graph, where there is one."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), 1)


def gather_up(terms: Tensor, ownership: Tensor) -> Tensor:
    """(N, F) sums of the terms (N, T) that belong together by ownership (T, F); the very same tensor where each is its own."""
    if ownership.shape[0] == ownership.shape[1] and torch.equal(ownership, torch.eye(ownership.shape[0]).to(ownership)):
        return terms
    return terms @ ownership


def _polynomial(coefficients: Sequence[float], v: Tensor) -> Tensor:
    """The sum of coefficients[k] v^k, by Horner's rule."""
    *rest, last = coefficients
    value = v * last + rest.pop()
    while rest:
        value = value * v + rest.pop()
    return value


def _in_packets(v: Tensor) -> Tensor:
    """(N, W) filled up to whole packets, so that no value is ever part of a rest."""
    width = int(v.shape[1])
    filled = width + -width % PACKET
    return v if filled == width else v[:, [i % width for i in range(filled)]]
