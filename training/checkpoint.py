"""Finished nets, kept beside the model until it is published, so that a fit that was killed goes on where it was.

A net is made from its seed alone, so that a bundle has the same bytes whether its nets were trained now or read from here.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import platform
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray

from service.manifest import Feature
from training.config import Config
from training.fit import Curve
from training.publish import make_folder, remove_older

PREFIX = ".fit-"
CURVE = "curve."  # the losses among the arrays of a net
STALE_SECONDS = 7 * 86_400  # after which nobody is thought to come back for a checkpoint
INTERRUPTED = (KeyboardInterrupt, SystemExit, OSError, MemoryError)  # what a second try may not meet
Arrays = dict[str, NDArray[np.generic]]


class Checkpoints:
    """The finished nets of one fit: files in the model's folder, named after all that the nets are made from.

    Used as a context: they are removed at its end, and stay where the process is killed, interrupted or cannot write.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._folder, self._key = folder, key

    def __enter__(self) -> Checkpoints:
        make_folder(self._folder)
        remove_older(self._folder.glob(f"{PREFIX}*"), STALE_SECONDS)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None or not issubclass(kind, INTERRUPTED):
            for path in self._folder.glob(f"{PREFIX}{self._key}-*"):
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # there is something in it
            self._folder.rmdir()

    def save(self, place: int, state: Mapping[str, torch.Tensor], curve: Curve) -> None:
        """Keeps a net: the hash of what follows, and its arrays; written beside and renamed. Raises OSError."""
        arrays: Arrays = {name: tensor.numpy() for name, tensor in state.items()}
        arrays |= {CURVE + name: np.asarray(values) for name, values in asdict(curve).items()}
        make_folder(self._folder)  # another fit that failed may have removed it, empty as it was
        out = io.BytesIO()
        np.savez(out, allow_pickle=False, **arrays)
        content = out.getvalue()
        descriptor, beside = tempfile.mkstemp(
            dir=self._folder, prefix=f"{PREFIX}unfinished-"
        )  # no other fit of this key removes it
        try:
            with open(descriptor, "wb") as file:
                file.write(hashlib.sha256(content).digest() + content)
            Path(beside).replace(self._path(place))
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise

    def load(self, place: int) -> tuple[dict[str, torch.Tensor], Curve] | None:
        """A net that was kept, or None where there is none, or half of one."""
        try:
            content = self._path(place).read_bytes()
        except FileNotFoundError:
            return None
        if hashlib.sha256(content[32:]).digest() != content[:32]:
            return None
        with np.load(io.BytesIO(content[32:]), allow_pickle=False) as arrays:
            state = {name: torch.from_numpy(arrays[name]) for name in arrays.files if not name.startswith(CURVE)}
            curve = Curve(**{name[len(CURVE) :]: arrays[name].tolist() for name in arrays.files if name.startswith(CURVE)})
        return state, curve

    def _path(self, place: int) -> Path:
        return self._folder / f"{PREFIX}{self._key}-{place}.npz"


def key_of(features: tuple[Feature, ...], x: NDArray[np.float32], fold: NDArray[np.int8], config: Config, device: str) -> str:
    """Digits of the hash of all that nets are made from: records, folds, settings, the code of training, and what runs it."""
    made_by = torch.__version__, np.__version__, platform.machine()
    digest = hashlib.sha256(repr((features, x.shape, config, device, made_by)).encode())
    for part in (x, fold):
        digest.update(np.ascontiguousarray(part).data)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:24]
