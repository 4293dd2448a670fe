"""python -m tests.torture [NAME ...]: every run at its full count, a row each, and one JSON line at the end."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.torture.runs import Outcome, every


def main() -> int:
    """The exit code is 1 where a promise was broken."""
    runs = every()
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(runs)}; default: all")
    parser.add_argument("--share", type=float, default=1.0, help="of the full counts (default 1)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if unknown := [name for name in args.names if name not in runs]:
        parser.error(f"no run {unknown[0]}")
    told = {}
    print(f"{'run':<20} {'tried':>7} {'failed':>7} {'seconds':>8}  promise")
    for name in args.names or runs:
        run, began = runs[name], time.monotonic()
        with tempfile.TemporaryDirectory(prefix="torture-") as folder:
            try:
                outcome = run.function(max(1, round(run.full * args.share)), args.seed, Path(folder))
            except Exception as error:  # noqa: BLE001 - the other runs are still to be made
                outcome = Outcome(1, ["".join(traceback.format_exception(error))[-3000:]])
        seconds = round(time.monotonic() - began, 1)
        print(f"{name:<20} {outcome.tried:>7} {len(outcome.failures):>7} {seconds:>8}  {run.promise}", flush=True)
        for failure in outcome.failures[:10]:
            print(f"    {failure}", flush=True)
        told[name] = {"tried": outcome.tried, "failed": len(outcome.failures), "seconds": seconds, **outcome.figures}
    print(json.dumps({"seed": args.seed, "share": args.share, "runs": told}))
    return int(any(run["failed"] or not run["tried"] for run in told.values()))


if __name__ == "__main__":
    sys.exit(main())
