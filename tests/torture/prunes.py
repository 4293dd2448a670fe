"""Prunes and promotions of one model at once, in processes of their own, some of which are killed.

`python -m tests.torture.prunes COUNT SEED FOLDER` forks them from a process without threads, and prints the outcome.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path

from service.bundle import current_version, list_versions, read_bundle
from service.manifest import BundleError
from service.promotion import promote
from service.pruning import prune
from tests.torture.runs import Outcome, torture

ROOT = Path(__file__).parents[2]
VERSIONS = [f"202601{day:02}T000000Z-made01" for day in range(1, 13)]
FAULT = 3


@torture("kill -9 among prunes and promotions at once: all that is listed is whole, the served one is there", suite=3, full=1_000)
def killed_prunes(count: int, seed: int, folder: Path) -> Outcome:
    from tests.service.tiny_bundle import publish  # onnxruntime and its threads are for this process alone

    first = publish(folder / "made", version=VERSIONS[0])
    for version in VERSIONS[1:]:
        shutil.copytree(first, first.parent / version)
    command = [sys.executable, "-m", "tests.torture.prunes", str(count), str(seed), str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        return Outcome(1, [f"exit code {done.returncode}: {done.stderr[-2000:]}"])
    return Outcome(**json.loads(done.stdout.splitlines()[-1]))


def cases(count: int, seed: int, folder: Path) -> Outcome:
    """Two prunes and two promotions a case, some of them killed within the time that they take."""
    outcome, chance, ended = Outcome(), random.Random(seed), 0
    for case in range(count):
        models = folder / f"case-{case}"
        shutil.copytree(folder / "made", models)
        (models / "tiny" / "CURRENT").write_text(chance.choice(VERSIONS))
        work = [partial(prune, models, "tiny", chance.randint(1, 6)) for _ in range(2)]
        work += [partial(promote, models, "tiny", chance.choice(VERSIONS)) for _ in range(2)]
        processes = [fork(one) for one in chance.sample(work, 4)]
        time.sleep(chance.random() * 0.008)
        for process in chance.sample(processes, chance.randint(1, 4)):
            os.kill(process, signal.SIGKILL)
        codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
        ended += codes.count(0)
        wrong = state(models)
        with suppress(BundleError):  # no served version, which has been told
            prune(models, "tiny", 1)
        wrong += state(models)
        hidden = [path.name for path in (models / "tiny").glob(".pruned-*")]
        outcome.check(FAULT not in codes and not wrong and not hidden, f"case {case}: {codes} {wrong} {hidden}")
        shutil.rmtree(models)
    outcome.figures["processes_that_ended"] = ended
    return outcome


def fork(work: Callable[[], object]) -> int:
    """A process that does this, by its id; that a version is gone, which is told as it should be, is no fault."""
    process = os.fork()
    if not process:
        code = FAULT
        with suppress(BaseException):
            with suppress(BundleError):
                work()
            code = 0
        os._exit(code)
    return process


def state(models: Path) -> list[str]:
    """What is wrong with a folder of models: the served version must be listed, and whatever is listed whole."""
    versions, wrong = list_versions(models, "tiny"), list[str]()
    if current_version(models, "tiny") not in versions:
        wrong.append("the served version is gone")
    for version in versions:
        try:
            read_bundle(models / "tiny" / version)
        except BundleError as error:
            wrong.append(str(error))
    return wrong


if __name__ == "__main__":
    print(json.dumps(asdict(cases(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])))))
