"""What clients name, and the keys that they hold, come out nowhere: not in files, logs, metrics or documents."""

from __future__ import annotations

import asyncio
import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

from service.errors import CODES
from service.metrics import METHODS
from tests.service import tiny_bundle
from tests.torture.probed import MARK, Probed, serving, until
from tests.torture.raw import Connection, post, request, run
from tests.torture.runs import Outcome, torture

API, ADMIN, WRONG = "api-k3y-9f8e7d", "admin-k3y-5a4b3c", "wrong-k3y-1a2b3c"
ROUTES = (
    *("/models/{}", "/models/{}/score", "/models/{}/reload", "/models/{}/report", "/models/{}/activity", "/models/{}/example"),
    *("/models/{}/versions/{}/score", "/v2/models/{}", "/v2/models/{}/ready", "/v2/models/{}/infer", "/v2/models/{}/versions/{}"),
    *("/v2/models/{}/versions/{}/infer", "/v2/models/{}/versions/{}/ready", "/{}", "/{}/{}", "/docs/{}", "/static/{}"),
)
OUTSIDE = "../outside"  # beside the folder of the models, with a whole bundle in it
NAMES = (
    *f"{OUTSIDE} .. . ... ../../etc/passwd /etc/passwd // \\..\\.. ~ $HOME C:\\ tiny/../tiny CURRENT tiny. .tiny TINY".split(),
    *("%2e%2e%2foutside", "..%c0%af..", "..;/", "{}", "%s%n", "é", "<script>", "${jndi:ldap://x}", "manifest.json"),
    *("\x00", "tiny\x00", "\n", "\r\nSet-Cookie: a=b", "\x1b[31mred", "\u202e", "' OR 1=1", "tiny ", "a" * 3000),
    '"}\n{"event":"forged"',
)
PROBES = ("/metrics", "/health", "/health/ready")  # which have no line in the log
DOCUMENTS = (*PROBES, "/openapi.json", "/docs", "/", "/v2", "/models", "/models/tiny", "/v2/models/tiny")
LINE = re.compile(
    r'[\dT:.-]+Z (info|warning|error) (GET|POST|PUT|DELETE|HEAD|-) ".*" \d{3} [\d.]+ ms request_id=[\w.-]{1,128}( \w+=\S+)*'
)
EVENT = re.compile(r"[\dT:.-]+Z (info|warning|error) [ -~]+")


@torture("no name reaches the file system, forges a log line or grows a metric; no key is told", suite=100, full=10_000)
def names_and_keys(count: int, seed: int, folder: Path) -> Outcome:
    outcome = Outcome()
    tiny_bundle.publish(folder / "models")
    shutil.copytree(folder / "models" / "tiny", folder / "outside")
    shutil.copytree(folder / "models" / "tiny", folder / f"{MARK}-outside")
    for kind, key in (("api", API), ("admin", ADMIN)):
        (folder / kind).write_text(f"{key}\n")
    for log_format in ("json", "text"):
        files = {"api_keys_file": folder / "api", "admin_keys_file": folder / "admin"}
        with serving(folder / log_format, folder / "models", log_requests=True, log_format=log_format, **files) as served:
            told = run(asked(served.port, count // 2, f"{seed}-{log_format}", outcome))
            documents = run(read_all(served.port))
            total = told + 3 * (len(DOCUMENTS) - len(PROBES)) + 1
            log = whole_log(served, log_format, total)
            for line in served.opened():
                outcome.check(False, f"opened {line}")
            lines = log.splitlines()
            wrong = [line for line in lines if not is_line(line, log_format)]
            outcome.check(not wrong, f"forged: {wrong[:3]}")
            n = requests_in(log, log_format)
            outcome.check(n == total, f"{n} lines of {total} requests")
            for name, text in {"the log": log, **documents}.items():
                outcome.check(not any(key in text for key in (API, ADMIN, WRONG)), f"a key in {name}")
            outcome.check(not (odd := odd_labels(documents["/metrics"])), f"labels {odd}")
    return outcome


async def asked(port: int, count: int, seed: str, outcome: Outcome) -> int:
    """Asks for what is not there, under every name; how many requests it made."""
    told = 0

    async def client(number: int) -> None:
        nonlocal told
        connection = await Connection.open(port)
        for turn in range(number, count, 16):
            draw = random.Random(f"{seed}-{turn}")
            sent = hostile(draw)
            connection.send(sent)
            told += 1
            answer = await connection.answer(bodyless=sent.startswith(b"HEAD"))
            holds = answer is not None and 400 <= answer.status < 500
            text = answer.body.decode() if answer else ""
            outcome.check(holds and not any(key in text for key in (API, ADMIN, WRONG)), f"{sent[:300]!r}: {answer}")
            if answer is None or answer.headers.get("connection") == "close":
                connection = await Connection.open(port)
        connection.close()

    await asyncio.gather(*(client(number) for number in range(16)))
    return told


def hostile(draw: random.Random) -> bytes:
    """A request for a name that no model has, with a key in it where keys do not belong."""
    name = draw.choice(NAMES) + draw.choice(["", MARK, f"/../{MARK}-outside", str(draw.random())])
    raw = draw.random()
    quoted = "".join(
        letter if raw < 0.3 and letter.isprintable() and letter.isascii() and letter not in ' "<>\\^`{}|#?' else f"%{byte:02x}"
        for letter in name
        for byte in ([ord(letter)] if letter.isascii() else letter.encode())
    )
    quoted = re.sub(r"^(tiny|TINY)$", "other", quoted)
    target = draw.choice(ROUTES).format(quoted, draw.choice([quoted, "20260101T000000Z-made01"]))
    if draw.random() < 0.3:
        target += f"?key={WRONG}&api_key={API}"
    headers = {"User_Agent": f'Mozilla "{WRONG}"', "X_Forwarded_For": draw.choice(["::1", WRONG, '"}{'])}
    headers["X_Request_ID"] = draw.choice(["sane-1", '"}{"forged":"', "a b", "é", "x" * 200, f"{WRONG}!"])
    headers |= draw.choice([{"X_API_Key": API}, {"X_API_Key": ADMIN}, {"Authorization": f"Bearer {API}"}, {"X_API_Key": WRONG}])
    method = draw.choice(["GET", "POST", "POST", "PUT", "HEAD", "DELETE"])
    body = b'{"records": [{}]}' if method == "POST" else None
    return request(method, target, body, **headers).replace(b"\x7f", b"")


async def read_all(port: int) -> dict[str, str]:
    """Every document that the service gives to those with and without a key."""
    connection, documents = await Connection.open(port), {}
    for path in DOCUMENTS:
        for headers in ({}, {"X_API_Key": API}, {"X_API_Key": ADMIN}):
            answer = await connection.ask(request("GET", path, **headers))
            documents[path] = documents.get(path, "") + str(answer.headers) + answer.body.decode()
    answer = await connection.ask(post(b'{"records": [{}], "explain": "all"}', X_API_Key=ADMIN))
    return {**documents, "a score": answer.body.decode()}


def whole_log(served: Probed, log_format: str, total: int) -> str:
    """The log, when it has the lines of so many requests, which are written a moment later; or after a while."""
    until(lambda: requests_in(served.log(), log_format) >= total)
    return served.log()


def requests_in(log: str, log_format: str) -> int:
    """Lines of requests."""
    return sum('"event":"request"' in line if log_format == "json" else bool(LINE.fullmatch(line)) for line in log.splitlines())


def is_line(line: str, log_format: str) -> bool:
    """Whether a line is a whole one of ours."""
    return is_event(line) if log_format == "json" else bool(LINE.fullmatch(line) or EVENT.fullmatch(line))


def is_event(line: str) -> bool:
    """Whether a line is one JSON object with what each line has, and nothing twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return dict(pairs) if len({name for name, _ in pairs}) == len(pairs) else {}

    try:
        document = json.loads(line, object_pairs_hook=once)
    except ValueError:
        return False
    return {"time", "level", "event"} <= document.keys() and "forged" not in document


def odd_labels(metrics: str) -> list[str]:
    """Values of labels that are none of the few that each label has."""
    known = {
        "route": re.compile(
            r"other|/|/score|/metrics|/docs(/{name})?|/openapi.json|(/v2)?(/health[a-z/]*|/models(/{name}[a-z/{}]*)?)|/v2"
        ),
        "method": re.compile("|".join([*METHODS, "OTHER"])),
        "code": re.compile("|".join([*CODES, "unknown_category", "out_of_range", "missing"])),
        "status": re.compile(r"\d{3}"),
        "model": re.compile("tiny"),
        "version": re.compile(r"20260101T000000Z-made01|[\d.]+"),
    }
    return [
        f"{name}={value[:60]}"
        for name, value in re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', metrics)
        if name in known and not known[name].fullmatch(value)
    ]
