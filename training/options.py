"""What a fit is asked to do: the command line before a TOML file (`--config`) before the defaults.

A file sets the fields of Options and of Config by their names; a name that is neither, or a value of another type, is refused.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from service.manifest import Kind
from service.settings import Settings
from training.config import Config

KINDS: tuple[Kind, ...] = get_args(Kind)

# The least value of a setting, where that is not 1 for a whole number and more than 0 for any other; and the largest, if any.
LEAST = {"seed": 0, "nets": 2, "calibration_from": 0, "calibration_from_in_order": 0, "memory": 2, "pool": 2}
LEAST |= dict.fromkeys(("noise", "mask", "locality", "regression", "presence"), 0)
LEAST |= {field.name: 0 for field in fields(Config) if field.name.endswith("_weight")}
MOST = {"mask": 1, "nets": 128, "seed": 2**53}  # folds are numbered in int8; torch takes 64 bits of a thousand seeds
SHARES = ("target_fpr", "calibration_share")  # below 1


class OptionError(Exception):
    """An option or a line of the file cannot be used; the text says which, and what is needed."""


@dataclass(frozen=True)
class Options:
    """Which records, what their columns are, and what becomes of the bundle. What shapes the model itself is in Config."""

    data: str
    model: str
    models_dir: Path = Path("models")  # the default is that of the service, ANOMALY_MODELS_DIR
    label: str | None = None
    normal: str | None = None
    drop: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()  # columns that are so, whatever they look like; and so on
    categorical: tuple[str, ...] = ()
    boolean: tuple[str, ...] = ()
    datetime: tuple[str, ...] = ()
    sign_key: Path | None = None
    compare: bool = False  # with the version that is served
    promote: bool = True  # makes the new version the served one
    track: bool = False  # records the fit in MLflow

    @property
    def kinds(self) -> dict[str, Kind]:
        """The columns whose kind is given."""
        return {column: kind for kind in KINDS for column in getattr(self, kind)}


def read(given: Mapping[str, Any], path: Path | None = None) -> tuple[Options, Config]:
    """given: by name, what the command line says, None where it says nothing; path: the file.

    Raises OptionError and, where the models folder is taken from the environment, SettingsError.
    """
    ours = {field.name for field in fields(Options)}
    hints = get_type_hints(Options) | get_type_hints(Config)
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    for name, value in (load(path) if path else {}).items():
        places[name] = f"{path}: {name}"
        if name not in hints:
            close = difflib.get_close_matches(name, hints, 1)
            hint = f"is {close[0]} meant?" if close else f"there are {', '.join(hints)}"
            raise OptionError(f"{places[name]}: no such setting; {hint}")
        values[name] = typed(value, hints[name], places[name])
    for name, value in given.items():
        if name in hints and value is not None:
            values[name] = tuple(value) if isinstance(value, list) else value
            places[name] = "--" + name.replace("_", "-")
    for name, value in values.items():
        check(name, value, places[name])
    for name, called in (("data", "DATA"), ("model", "--model")):
        if name not in values:
            raise OptionError(f"{called} is missing: give it on the command line, or as '{name}' in the file of --config")
    if "models_dir" not in values:
        values["models_dir"] = Settings.read().models_dir
    options = Options(**{name: value for name, value in values.items() if name in ours})
    if (options.label is None) != (options.normal is None):
        raise OptionError("--label and --normal go together: give both or neither")
    named = [column for kind in KINDS for column in getattr(options, kind)]
    if twice := [column for column in named if named.count(column) > 1]:
        raise OptionError(f"column {twice[0]} is given two kinds; give it one")
    return options, Config(**{name: value for name, value in values.items() if name not in ours})


def load(path: Path) -> dict[str, Any]:
    """The top level of a TOML file. Raises OptionError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise OptionError(f"{path}: not UTF-8; save it as that") from None
    except tomllib.TOMLDecodeError as error:
        raise OptionError(f"{path}: not TOML: {error}") from None


def typed(value: Any, hint: Any, place: str) -> Any:
    """A value of TOML as one of this type; no other is taken for it, but a whole number for a number. Raises OptionError."""
    wanted = [option for option in (get_args(hint) or (hint,)) if option is not type(None)]
    if get_origin(hint) is Literal:
        if value in wanted:
            return value
        raise OptionError(f"{place}: one of {', '.join(wanted)} is needed")
    if get_origin(hint) is tuple:
        if isinstance(value, list) and all(isinstance(part, str) for part in value):
            return tuple(value)
        raise OptionError(f'{place}: a list of texts is needed, such as ["id"]')
    if type(value) in wanted:
        return value
    if float in wanted and type(value) is int:
        return float(value)
    if Path in wanted and isinstance(value, str):
        return Path(value)
    names = {str: "a text in quotes", Path: "a text in quotes", bool: "true or false", int: "a whole number", float: "a number"}
    raise OptionError(f"{place}: {' or '.join(names[option] for option in wanted)} is needed")


def check(name: str, value: Any, place: str) -> None:
    """Raises OptionError for a number that no fit can use."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if not math.isfinite(value):
        raise OptionError(f"{place}: a finite number is needed")
    if name in SHARES and not 0 < value < 1:
        raise OptionError(f"{place}: a share between 0 and 1 is needed, such as {getattr(Config, name)}")
    least = LEAST.get(name, 1 if isinstance(value, int) else None)
    if least is not None and value < least:
        raise OptionError(f"{place}: {least} or more is needed")
    if value > MOST.get(name, math.inf):
        raise OptionError(f"{place}: {MOST[name]} or less is needed")
    if least is None and value <= 0:
        raise OptionError(f"{place}: more than 0 is needed")
