"""make demo: from a table to scored records, on this machine, in the steps that a user takes.

Makes example payments, fits a model to them, starts the service, posts payments that the model has never seen, and prints the
answers. Serves on until Ctrl-C; with DEMO_EXIT=1 it ends after the answers, with exit code 0 only if they are right.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from training import example
from training.metrics import auroc, false_alarm_band

FOLDER = Path(".demo")
TRAINING_ROWS, FRESH_ROWS, BATCH = 8_000, 4_000, 1_000
AUROC_LEAST = 0.85  # well below what it is, well above what a broken detector gives


def main() -> int:
    """Runs the demo; 0 if every answer is as it should be."""
    FOLDER.mkdir(exist_ok=True)
    table, models = FOLDER / "payments.csv", FOLDER / "models"
    step(f"1. Example data: {TRAINING_ROWS:,} card payments, about 1 % of them fraud of five kinds -> {table}")
    example.write_csv(example.generate(TRAINING_ROWS, seed=1), table)

    fit = [sys.executable, "-m", "training", "fit", str(table), "--model", "payments", "--models-dir", str(models)]
    fit += ["--label", example.LABEL, "--normal", example.NORMAL]
    step("2. Training, on the normal payments only:\n   python " + " ".join(fit[1:]))
    bundle = Path(subprocess.run(fit, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
    print(f"   published: {bundle}   (open {bundle / 'report.html'} in a browser)")

    step("3. The service:\n   ANOMALY_MODELS_DIR=.demo/models python -m service serve")
    with serving(models) as address:
        right = ask(address)
        stays = os.environ.get("DEMO_EXIT") != "1"
        step(f"Its API: {address}/docs   its health: {address}/health   its metrics: {address}/metrics")
        print(f"{'Serving until Ctrl-C. ' if stays else ''}The page to look at it: {address}/", flush=True)
        if stays:
            try:
                while True:
                    time.sleep(3600)
            except KeyboardInterrupt:
                pass
    return 0 if right else 1


def ask(address: str) -> bool:
    """Posts fresh payments, prints what comes back, and says whether it is right."""
    columns = example.generate(FRESH_ROWS, seed=2, anomaly_share=0.05)
    labels = [str(label) for label in columns.pop(example.LABEL)]
    records = example.records(columns)
    with httpx.Client(base_url=address, timeout=60) as client:
        step("4. One normal payment and one of each kind of fraud:")
        chosen = [labels.index(kind) for kind in (example.NORMAL, *example.KINDS)]
        answer = post(client, "/explain", {"records": [records[i] for i in chosen]})
        for i, result in zip(chosen, answer["results"], strict=True):
            show(labels[i], result)
        step(f"5. {FRESH_ROWS:,} payments that the model has never seen, {BATCH:,} a request:")
        began, scores, flags = time.perf_counter(), [], []
        for start in range(0, len(records), BATCH):
            results = post(client, "/score", {"records": records[start : start + BATCH], "explain": "none"})["results"]
            scores += [result["score"] for result in results]
            flags += [result["is_anomaly"] for result in results]
        seconds = time.perf_counter() - began
        model = client.get(f"/models/{answer['model']}").raise_for_status().json()
    is_anomaly, flagged = np.array([label != example.NORMAL for label in labels]), np.array(flags)
    area, alarms = auroc(is_anomaly, np.array(scores)), float(flagged[~is_anomaly].mean())
    low, high = false_alarm_band(model["calibration_records"], int((~is_anomaly).sum()), answer["alpha"])
    print(f"   {len(records) / seconds:,.0f} payments/s over HTTP from one client")
    print(f"   AUROC {area:.3f}; flagged {100 * flagged[is_anomaly].mean():.0f} % of frauds, {100 * alarms:.2f} % of normal ones")
    print(f"   asked for: {100 * answer['alpha']:g} % false alarms, which means {100 * low:.2f} to {100 * high:.2f} % here")
    right = area >= AUROC_LEAST and low <= alarms <= high and answer["results"][0]["p_value"] > answer["results"][1]["p_value"]
    print("   as it should be" if right else "   NOT as it should be")
    return right


def post(client: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The answer of POST /score or /explain."""
    answer: dict[str, Any] = client.post(path, json=body).raise_for_status().json()
    return answer


def show(label: str, result: dict[str, Any]) -> None:
    """A record's verdict, and the three values without which, or with others of which, it would be the most normal."""
    verdict = f"ANOMALY ({result['severity']})" if result["is_anomaly"] else "normal"
    print(f"   {label:16} {verdict:20} score {result['score']:6.2f}   p-value {result['p_value']:.4f}")
    for reason in result["contributions"][:3] if result["is_anomaly"] else []:
        what = f"{reason['feature']} is {reason['value']}, expected {shown(reason['if_missing']['expected'])} from the others"
        best = min(filter(None, (reason["if_missing"], reason["if_expected"])), key=lambda told: told["score"])
        how = "without it" if best is reason["if_missing"] else "as expected"
        enough = "" if reason["normal_at"] is None else f"   normal at {shown(reason['normal_at'])}"
        print(f"   {'':16}   {what:72} {how}: score {best['score']:5.2f}   p-value {best['p_value']:.4f}{enough}")
    for rule in result["broken_rules"]:
        print(f"   {'':16}   breaks a rule that all training records keep: {rule}")


def shown(value: Any) -> str:
    """What is expected, in no more digits than people read."""
    return f"{value:.2f}" if isinstance(value, float) else str(value)


@contextmanager
def serving(models: Path) -> Iterator[str]:
    """The address of a service of these models, for as long as it is needed."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "service", "serve", "--port", str(port)]
    environment = {**os.environ, "ANOMALY_MODELS_DIR": str(models), "ANOMALY_LOG_FORMAT": "text"}
    log = FOLDER / "service.log"
    with open(log, "wb") as out, subprocess.Popen(command, env=environment, stdout=out, stderr=out) as process:
        try:
            began = time.monotonic()
            while not ready(address):
                if process.poll() is not None or time.monotonic() - began > 60:
                    raise SystemExit(f"the service did not start; {log} says:\n{log.read_text(errors='replace')[-2000:]}")
                time.sleep(0.05)
            yield address
        finally:
            process.terminate()


def free_port() -> int:
    """8000, or any other free port where that is taken."""
    for port in (8000, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise SystemExit("no free port on 127.0.0.1")


def ready(address: str) -> bool:
    """Whether the service can give a score."""
    try:
        return httpx.get(f"{address}/health").status_code == 200
    except httpx.TransportError:
        return False


def step(text: str) -> None:
    """A heading."""
    print(f"\n{text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
