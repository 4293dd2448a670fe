"""Scorer, encoder and decoder -> ONNX bytes.

The TorchScript exporter of the pinned torch is used: it takes a tenth of a second and needs no further library. Parity of what it
writes is proven on every fit (parity.py), so nothing rests on trust in it.
"""

from __future__ import annotations

import io
import warnings
from typing import cast

import onnx
import torch
from torch import Tensor, nn

from training.scorer import Answer, Scorer

OPSET = 18


class EncoderGraph(nn.Module):
    """x (N, C) -> mu, log_var (N, L) of all nets, side by side."""

    def __init__(self, scorer: Scorer) -> None:
        super().__init__()
        self.scorer = scorer

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The posterior of each record."""
        slots = self.scorer.preprocessing(x)
        posteriors = [net.encoder(slots) for net in self.scorer.nets]
        return torch.cat([p.mu for p in posteriors], 1), torch.cat([p.log_var for p in posteriors], 1)


class DecoderGraph(nn.Module):
    """z (N, L) of all nets -> for each net, side by side: expected and deviation (N, nets * C), logits (N, nets * (B + S))."""

    def __init__(self, scorer: Scorer) -> None:
        super().__init__()
        self.scorer = scorer

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The likelihood's parameters in the features' own units: what `sample` draws from."""
        preprocessing = self.scorer.preprocessing
        nets = list(self.scorer.nets)
        outs = [net.decoder(part) for net, part in zip(nets, torch.chunk(z, len(nets), 1), strict=True)]
        sigma = nets[0].sigma
        shifted = torch.cat([*outs, *(out + sigma for out in outs), *(out - sigma for out in outs)], 1)
        restored = preprocessing.restore(torch.reshape(shifted, (-1, preprocessing.slots)))  # as rows: nodes for it once
        expected, up, down = torch.chunk(torch.reshape(restored, (-1, 3 * len(nets) * preprocessing.columns)), 3, 1)
        logits = [out[:, preprocessing.reals :] for out in outs]
        return expected, (up - down) / 2, torch.cat(logits, 1)


def export(scorer: Scorer) -> dict[str, bytes]:
    """The three graphs, by file name."""
    scorer = scorer.eval()
    columns = scorer.preprocessing.columns
    latent = sum(net.latent for net in scorer.nets)
    x = torch.zeros(2, columns)
    return {
        "encoder.onnx": to_onnx(EncoderGraph(scorer), x, "x", ("mu", "log_var")),
        "decoder.onnx": to_onnx(DecoderGraph(scorer), torch.zeros(2, latent), "z", ("expected", "deviation", "logits")),
        "scorer.onnx": to_onnx(scorer, x, "x", Answer._fields),
    }


def to_onnx(module: nn.Module, example: Tensor, input_name: str, output_names: tuple[str, ...]) -> bytes:
    """The module's graph for any number of rows; the same bytes for the same module, wherever it is exported."""
    out = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter announces its successor, and that traced Python branches are fixed
        torch.onnx.export(
            module,
            (example,),
            cast(str, out),  # a file object will do
            dynamo=False,
            opset_version=OPSET,
            input_names=[input_name],
            output_names=list(output_names),
            dynamic_axes={name: {0: "n"} for name in (input_name, *output_names)},
        )
    model = onnx.load_from_string(out.getvalue())
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    onnx.checker.check_model(model)
    return cast(bytes, model.SerializeToString(deterministic=True))
