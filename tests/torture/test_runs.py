"""Every torture run at its small count."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture.runs import every


@pytest.mark.parametrize("name", every())
def test_the_promise_is_kept(name: str, tmp_path: Path) -> None:
    run = every()[name]
    outcome = run.function(run.suite, 1, tmp_path)
    assert outcome.failures == []
    assert outcome.tried >= run.suite
