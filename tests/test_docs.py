"""The documentation says what the code does: README's blocks run, links resolve, and nothing that has a name is left out."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pyarrow.csv
import pyarrow.parquet
import pytest

from service.app import create_app
from service.errors import CODES
from service.manifest import Feature, Golden, Manifest
from service.metrics import Metrics
from service.settings import Settings, table
from tests.service.client import Client
from tests.torture.served import free_port
from training import example

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "models" / "README.md"])
BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>run|serve|answer) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)
VERSION = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{6}")

# What is tested is the commands and what they print; a few rows, nets and steps of training are enough for that.
SMALL_FITS = """
import sys
if "training" in sys.orig_argv and "fit" in sys.orig_argv:
    from training.config import Config
    usual = Config.__init__
    Config.__init__ = lambda self, **given: usual(self, **{"nets": 2, **given})
    Config.steps_for = lambda *given: 40
"""
# For a host without curl.
CURL = """
import sys, urllib.request
url = next(word for word in sys.argv[1:] if word.startswith("localhost"))
given = dict(zip(sys.argv[1:], sys.argv[2:]))
headers = dict([given["-H"].split(": ")]) if "-H" in given else {}
data = given["-d"].encode() if "-d" in given else None
print(urllib.request.urlopen(urllib.request.Request("http://" + url, data, headers)).read().decode())
"""


class Block(NamedTuple):
    """A fenced block of a page, and the mark in the comment before it."""

    mark: str | None
    language: str
    text: str


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return [Block(*found.group("mark", "language", "text")) for found in BLOCK.finditer((ROOT / page).read_text())]


class Workplace:
    """An empty folder in which README's commands run as in a clone, with a `python` that is this one."""

    def __init__(self, folder: Path, *, small: bool = True) -> None:
        self.small = small  # tables and fits
        self.folder, self.port = folder / "clone", free_port()
        self.folder.mkdir()
        tools = folder / "bin"
        tools.mkdir()
        if small:
            (folder / "sitecustomize.py").write_text(SMALL_FITS)
        self._tool(tools / "python", f'exec {shlex.quote(sys.executable)} "$@"')
        if not shutil.which("curl"):
            (folder / "curl.py").write_text(CURL)
            self._tool(tools / "curl", f'exec {shlex.quote(sys.executable)} {shlex.quote(str(folder / "curl.py"))} "$@"')
        self.environment = {
            **os.environ,
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
        }

    @staticmethod
    def _tool(path: Path, line: str) -> None:
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)

    def run(self, text: str) -> str:
        """The standard output of a block, which must succeed; its port and version are this place's, and its table is smaller."""
        text = text.replace("localhost:8000", f"localhost:{self.port}")
        if self.small:
            text = text.replace("--rows 6000", "--rows 1200")
        if "promote" in text:
            text = VERSION.sub(sorted(path.name for path in self.folder.glob("models/payments/2*"))[0], text)
        command = ["sh", "-eu", "-c", text]
        done = subprocess.run(command, check=False, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
        return done.stdout

    @contextmanager
    def serving(self, text: str) -> Iterator[None]:
        """A service started as a block says, but on a free port, for as long as it is needed."""
        command = ["sh", "-c", f"exec env {text.strip()} --port {self.port}"]
        with (
            open(self.folder / "service.log", "w+") as log,
            subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=log, stderr=log) as process,
        ):
            try:
                until = time.monotonic() + 60
                while not self._ready():
                    if process.poll() is not None or time.monotonic() > until:
                        log.seek(0)
                        pytest.fail(f"{text} did not serve:\n{log.read()}")
                    time.sleep(0.05)
                yield
            finally:
                process.terminate()

    def _ready(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/health").status_code == 200
        except httpx.TransportError:
            return False


def alike(one: Any, other: Any) -> bool:
    """Whether JSON values are made of the same names and types, whatever the numbers, the order of lists and what is empty."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        pairs = [(one, other), (other, one)] if one and other else []
        return all(any(alike(a, b) for b in there) for here, there in pairs for a in here)
    return type(one) is type(other) or {type(one), type(other)} == {int, float}


def test_the_commands_of_the_readme_do_what_it_says(tmp_path: Path) -> None:
    place, told = Workplace(tmp_path), ""
    marked = [block for block in blocks("README.md") if block.mark]
    serve = next(place_of for place_of, block in enumerate(marked) if block.mark == "serve")
    assert {block.mark for block in marked} == {"run", "serve", "answer"}
    for block in marked[:serve]:
        told = place.run(block.text)
    with place.serving(marked[serve].text):
        for block in marked[serve + 1 :]:
            if block.mark == "run":
                told = place.run(block.text)
            else:
                assert block.mark == "answer"
                assert alike(json.loads(told), json.loads(block.text)), told
    served = (place.folder / "models" / "payments" / "CURRENT").read_text().strip()
    versions = sorted(path.name for path in (place.folder / "models" / "payments").glob("2*"))
    assert len(versions) == 2
    assert served == versions[0]
    assert (place.folder / "scores.csv").read_text().splitlines()[0] == "time,amount,score,p_value,is_anomaly"


def test_the_commands_of_the_training_page_do_what_it_says(tmp_path: Path) -> None:
    """The object store is a folder, by its URI; the tables and the models are small."""
    place, store = Workplace(tmp_path), tmp_path / "store"
    models, told = place.folder / "models" / "payments", ""
    smaller = {
        "s3://bucket/payments": store.as_uri(),
        "--rows 3000": "--rows 1200",
        "target_fpr = 0.02": 'target_fpr = 0.02\nscore = "reconstruction"',
    }
    for block in blocks("docs/training.md"):
        if block.mark == "run":
            text = block.text
            for words, others in smaller.items():
                text = text.replace(words, others)
            told = place.run(text)
        if "CREATE TABLE" in block.text:
            example.write_csv(example.generate(1_100, seed=7), place.folder / "new.csv")
            store.mkdir()
            pyarrow.parquet.write_table(pyarrow.csv.read_csv(place.folder / "new.csv"), store / "1.parquet")
    served, new = sorted(path.name for path in models.glob("2*"))
    assert (models / "CURRENT").read_text().strip() == served
    assert told.splitlines()[-1] == f"models/payments/{new}"
    assert re.search(rf"^version +{served} +{new}$", told, re.MULTILINE)
    settings = json.loads((models / new / "manifest.json").read_text())["training"]
    assert (settings["settings"]["target_fpr"], settings["data"]["drop"]) == (0.02, ["card_country"])
    assert [source["name"] for source in settings["data"]["sources"]] == ["part-0.parquet"]


def test_json_in_the_pages_is_json() -> None:
    for page in PAGES:
        for block in blocks(str(page.relative_to(ROOT))):
            if block.language == "json":
                json.loads(block.text)


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", BLOCK.sub("", page.read_text())):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_files_that_are_named_exist() -> None:
    map_of_all = BLOCK.search(section("README.md", "Map of the repository"))
    assert map_of_all is not None
    named = [line.split()[0] for line in map_of_all.group("text").splitlines()]
    assert len(named) > 10
    for page in PAGES:
        named += re.findall(r"\b(?:service|training|tests|benchmarks)/[\w/]+\.py\b", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_file_of_the_packages_is_named() -> None:
    named = (ROOT / "docs" / "architecture.md").read_text()
    files = [path.relative_to(ROOT) for package in ("service", "training") for path in (ROOT / package).glob("*.py")]
    assert [str(file) for file in files if file.name != "__init__.py" and f"`{file}`" not in named] == []


def test_every_decision_is_listed() -> None:
    pages = {path.name for path in (ROOT / "docs" / "decisions").glob("0*.md")}
    assert pages == set(re.findall(r"\((0\d{3}-[\w-]+\.md)\)", (ROOT / "docs" / "decisions" / "README.md").read_text()))


def section(page: str, heading: str) -> str:
    """What stands below a heading of the second level."""
    return re.split(r"^## ", (ROOT / page).read_text().split(f"\n## {heading}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of the rows of tables, without backquotes."""
    return [
        [cell.strip().replace("`", "") for cell in line.strip("| ").split(" | ")] for line in text.splitlines() if line[:1] == "|"
    ]


def test_every_setting_is_documented() -> None:
    told = [
        row for row in rows(section("docs/operations.md", "Settings").replace("|  |", "| - |")) if row[0].startswith("ANOMALY_")
    ]
    assert told == [[name, default or "-", meaning.replace("`", "")] for name, default, meaning in table()]


def test_every_metric_is_documented() -> None:
    told = {(row[0], row[1]) for row in rows(section("docs/operations.md", "Metrics")) if row[0].startswith("anomaly_")}
    families = {(family.name + "_total" * (family.type == "counter"), family.type) for family in Metrics().collect()}
    assert told == families


def test_every_error_is_documented() -> None:
    told = [(int(row[0]), row[1]) for row in rows(section("docs/api.md", "Errors")) if row[0].isdigit()]
    assert told == sorted(((status, code) for code, (status, _) in CODES.items()), key=lambda error: error[0])
    causes = {code for row in rows(section("docs/operations.md", "Runbook")) for code in row[0].split(", ")}
    assert set(CODES) - causes == set()


def test_every_endpoint_is_documented(tmp_path: Path) -> None:
    paths = create_app(Settings(models_dir=tmp_path)).openapi()["paths"]
    served = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    told = {endpoint for row in rows((ROOT / "docs/api.md").read_text()) for endpoint in row[0].split(", ") if " /" in endpoint}
    assert told == served | {"GET /docs", "GET /openapi.json"}


def test_what_needs_no_key_is_listed(tmp_path: Path) -> None:
    (row,) = (row for row in rows((ROOT / "SECURITY.md").read_text()) if row[0] == "a client without a key")
    told = {path.replace("NAME", "{name}") for path in re.findall(r"(?<=[ ,])/[\w./{}]*", row[1])}
    asked = {"metrics_need_key": True, "docs_need_key": True}
    assert told == open_paths(tmp_path) != told - {"/metrics", "/docs", "/openapi.json"} == open_paths(tmp_path, **asked)


def open_paths(models_dir: Path, **settings: bool) -> set[str]:
    """The paths that answer without a key although there are keys."""
    client = Client(Settings(models_dir=models_dir, api_keys=("key",), admin_keys=("root",), **settings))
    try:
        documented = [(path, method) for path, methods in client.app.openapi()["paths"].items() for method in methods]
        asked = [*documented, ("/docs", "get"), ("/openapi.json", "get")]
        return {path for path, method in asked if client.request(method.upper(), path).status_code != 401}
    finally:
        client.close()


def test_every_member_of_a_manifest_is_documented() -> None:
    text = section("models/README.md", "manifest.json")
    told = {name for row in rows(text) for name in row[0].split(", ")}
    assert {*Manifest.model_fields, *Feature.model_fields} - told == set()
    assert [name for name in Golden.model_fields if f"`{name}`" not in text] == []


def test_the_changelog_has_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\n## [{version}]" in (ROOT / "CHANGELOG.md").read_text()
