"""What the commands of service and training have in common: a wrong argument is one line and exit code 2."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NoReturn

USER_ERROR = 2


class Parser(argparse.ArgumentParser):
    """A wrong argument ends in one line, not in the whole usage. Options are written out: `--model` is no `--models-dir`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Ends the process with exit code 2."""
        self.exit(USER_ERROR, f"{self.prog}: {message}; see '{self.prog} --help'\n")


def share(text: str) -> float:
    """A share between 0 and 1, both excluded."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"'{text}': a share between 0 and 1 is needed, such as 0.01")
    return value


def whole(least: int) -> Callable[[str], int]:
    """What reads a whole number, so many or more."""

    def read(text: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"'{text}': a whole number, {least} or more, is needed")
        return int(text)

    return read
