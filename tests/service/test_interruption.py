"""A signal ends a command as itself, also where it comes while arro3 reads through Python and tells of a fault."""

from __future__ import annotations

import io
import signal

import pytest
from arro3.core import DataType, Field, Schema
from arro3.io import read_csv

from service.interruption import interruptible


class Interrupted(io.BytesIO):
    """A file in whose reading a signal comes."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(b"a\n" + b"1\n" * 100_000)
        self.number = number
        self.reads = 0

    def read(self, size: int | None = -1) -> bytes:
        self.reads += 1
        if self.reads == 2:
            signal.raise_signal(self.number)
        return super().read(size)


def read(file: io.BytesIO) -> None:
    for _ in read_csv(file, Schema([Field("a", DataType.string())]), has_header=True):
        pass


@pytest.mark.parametrize(("number", "asked"), [(signal.SIGTERM, "143"), (signal.SIGINT, "")])
def test_a_signal_is_no_fault_of_the_file(number: signal.Signals, asked: str) -> None:
    before = signal.getsignal(number)
    with pytest.raises((SystemExit, KeyboardInterrupt)) as ended, interruptible(number):
        read(Interrupted(number))
    assert (type(ended.value), str(ended.value)) == (SystemExit if asked else KeyboardInterrupt, asked)
    assert signal.getsignal(number) is before


def test_a_fault_stays_one_where_no_signal_came() -> None:
    with pytest.raises(Exception, match="incorrect number of fields"), interruptible(signal.SIGTERM):
        read(io.BytesIO(b"a\n1\n2,3\n"))
