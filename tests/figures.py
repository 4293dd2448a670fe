"""python -m tests.figures: whether README's figures are those that its commands give now. Ends with 1 where they are not.

Another kind of CPU gives other last digits, and a model that differs in them a little: figures may be off by so much.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.test_docs import Workplace, blocks

OFF = 0.02  # relative
SPEEDS = ("uptime_s", "last_score_age_s", "rows/s")  # a matter of the machine
NUMBER = re.compile(r"(?<![\w-])\d+(?:\.\d+)?(?![\w-])")


def main() -> int:
    """Runs README's commands in an empty folder, and prints where their answers differ."""
    with tempfile.TemporaryDirectory() as folder:
        place, wrong, told = Workplace(Path(folder), small=False), list[str](), ""
        marked = blocks("README.md")
        serve = next(at for at, block in enumerate(marked) if block.mark == "serve")
        for block in marked[:serve]:
            told, wrong = _next(place, block, told, wrong)
        # Without looking for versions: it would now and then load the second one before that is rolled back, and count anew.
        with place.serving(f"ANOMALY_RELOAD_SECONDS=0 {marked[serve].text}"):
            for block in marked[serve + 1 :]:
                told, wrong = _next(place, block, told, wrong)
    print("\n".join(wrong) or "README's figures are those of the code.")
    return bool(wrong)


def _next(place: Workplace, block: Any, told: str, wrong: list[str]) -> tuple[str, list[str]]:
    if block.mark == "run":
        return place.run(block.text), wrong
    if block.mark == "answer":
        found = dict(_leaves(json.loads(told)))
        meant = dict(_leaves(json.loads(block.text)))
        return "", [
            *wrong,
            *(f"{path}: {meant.get(path)} is {found.get(path)}" for path in meant if _far(meant[path], found.get(path))),
        ]
    if block.language == "text" and told:
        shown, given = _lines(block.text), _lines(told)  # a block may begin with what stands on standard error
        pairs = zip(reversed(shown), reversed(given), strict=False)
        return "", [*wrong, *(f"{one}\n  is {other}" for one, other in pairs if _differ(one, other))]
    return "", wrong


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, dict | list):
        every = value.items() if isinstance(value, dict) else enumerate(value)
        for name, part in every:
            yield from _leaves(part, f"{path}.{name}")
    elif isinstance(value, int | float) and not isinstance(value, bool) and not path.endswith(SPEEDS):
        yield path, float(value)


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if NUMBER.search(line) and "rows/s" not in line]


def _differ(one: str, other: str) -> bool:
    numbers, others = (list(map(float, NUMBER.findall(line))) for line in (one, other))
    return len(numbers) != len(others) or any(map(_far, numbers, others))


def _far(one: float, other: float | None) -> bool:
    return other is None or abs(one - other) > OFF * max(abs(one), abs(other), 0.01)


if __name__ == "__main__":
    sys.exit(main())
