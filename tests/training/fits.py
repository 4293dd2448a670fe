"""Tiny fits through the command, in the process of the test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training import example
from training.__main__ import main

COLUMNS = ("amount", "country", "transactions_24h", example.LABEL)
TINY = {"nets": 2, "steps_most": 30, "steps_least": 10, "evaluate_every": 10, "hidden": 16, "latent": 8, "memory": 100}
TINY |= {"calibration_from": 100, "score": "reconstruction"}  # holds records out of a small table, too; the smallest graphs
LABELLED = {"label": example.LABEL, "normal": example.NORMAL}


def table(path: Path, rows: int = 400, seed: int = 1, columns: tuple[str, ...] = COLUMNS) -> Path:
    """Example payments, one in ten of them fraud, with these columns alone."""
    made = example.generate(rows, seed=seed, anomaly_share=0.1)
    example.write_csv({name: made[name] for name in columns}, path)
    return path


def toml(path: Path, **settings: Any) -> Path:
    """A file of settings."""
    path.write_text("".join(f"{name} = {_text(value)}\n" for name, value in settings.items()))
    return path


def fit(folder: Path, data: Path, *words: str, **settings: Any) -> int:
    """The exit code of a fit of the model `shop` in folder/models, with a file of these settings besides."""
    config = toml(folder / "fit.toml", **{"model": "shop", "models_dir": folder / "models", **TINY, **LABELLED, **settings})
    return main(["fit", str(data), "--config", str(config), *words])


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str | Path) else repr(value)
