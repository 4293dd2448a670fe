"""schemathesis on the service's own document: what it says of itself is true, and nothing that it invites is a fault."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.torture.probed import serving
from tests.torture.runs import Outcome, torture

# Not all rules of a request can be said in OpenAPI; and of two ways to authenticate one is enough, whatever the other header has.
NOT_ASKED = "positive_data_acceptance,ignored_auth"
SEED = 1
# Who waits for no time at all gets a 503, as it should. A fault of ours would be in the log.
CONFIG = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "503"]
"""


@torture("schemathesis over /openapi.json finds no 5xx and no answer that the document does not name", suite=1, full=3)
def openapi_fuzz(count: int, seed: int, folder: Path) -> Outcome:
    """With so many seeds."""
    outcome = Outcome()
    (folder / "schemathesis.toml").write_text(CONFIG)
    with serving(folder, api_keys="right", admin_keys="root") as served:
        url = f"http://127.0.0.1:{served.port}/openapi.json"
        command = [sys.executable, "-W", "ignore", "-m", "schemathesis.cli", "run", url, "-H", "X-API-Key: right", "--no-color"]
        some = ["--phases", "fuzzing", "--max-examples", "1"] if count == 1 else ["--max-examples", "30"]
        for number in range(count):
            more = ["--seed", str(seed + number + SEED), "--exclude-checks", NOT_ASKED, "--generation-database", "none", *some]
            done = subprocess.run([*command, *more], capture_output=True, text=True, check=False, cwd=folder)
            outcome.check(done.returncode == 0, f"seed {seed + number + SEED}: {done.stdout[-3000:]} {done.stderr[-500:]}")
        outcome.check("a request failed" not in served.log(), f"a fault of ours: {served.log()[-500:]}")
    return outcome
