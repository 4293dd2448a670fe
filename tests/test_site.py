"""The site builds with every link resolved, the tracked OpenAPI document is the service's, and the examples run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from service.app import create_app
from service.settings import Settings
from tests import openapi
from tests.conftest import Payments
from tests.service.serving import serving
from tests.test_docs import SMALL_FITS, blocks
from training import example

ROOT = Path(__file__).parents[1]


def build(site: Path, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """The documentation of a repository as a site. With --quiet, mkdocs would count no warning."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


def test_the_site_builds_with_no_warning_and_asks_for_nothing_from_elsewhere(tmp_path: Path) -> None:
    done = build(tmp_path / "site")
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {str(page.relative_to(tmp_path / "site")) for page in (tmp_path / "site").rglob("*.html")}
    meant = {
        str(page.relative_to(ROOT / "docs").with_suffix(".html")).replace("README", "index") for page in ROOT.glob("docs/**/*.md")
    }
    assert meant | {"index.html", "bundle.html", "changelog.html", "contributing.html"} <= pages
    assert "<math" in (tmp_path / "site" / "scoring.html").read_text()
    assert 'href="scoring.html"' in (tmp_path / "site" / "index.html").read_text()  # README's link to docs/scoring.md
    for page in pages:
        text = (tmp_path / "site" / page).read_text()
        assert not re.search(r'<(?:script|link|img|iframe|source|use)\b[^>]+(?:src|href)="(?:https?:)?//', text), page
        assert 'class="mermaid"' not in text, page  # for which the theme loads a script


def test_a_link_to_a_page_that_is_not_there_stops_the_build(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    for name in ("mkdocs.yml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "models/README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    with open(tmp_path / "docs" / "api.md", "a") as page:
        page.write("\n[nothing](nothing.md) and [no such heading](client.md#none)\n")
    done = build(tmp_path / "site", tmp_path)
    assert done.returncode == 1
    assert "contains a link 'nothing.md'" in done.stderr
    assert "'client.md#none'" in done.stderr + done.stdout


def test_the_tracked_openapi_document_is_what_the_service_says() -> None:
    assert (ROOT / "docs" / "openapi.json").read_text() == openapi.document(), "the interface has changed: make openapi"


def test_the_blocks_of_the_client_page_run(
    payments: Payments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example.write_csv(example.generate(400, seed=3, anomaly_share=0.1), tmp_path / "new.csv")
    monkeypatch.chdir(tmp_path)
    settings = Settings(models_dir=payments.models, provider="cpu", reload_seconds=0, log_requests=False, api_keys=("KEY",))
    names: dict[str, object] = {}
    run = [block.text for block in blocks("docs/client.md") if block.language == "python"]
    assert len(run) == 8
    with serving(create_app(settings)) as address:
        for block in run:
            exec(block.replace("http://localhost:8000", address), names)
        names["client"].close()  # type: ignore[attr-defined]
    told = capsys.readouterr().out
    assert "invalid_records records[0].amount" in told
    for frame in ("pandas", "polars", "duckdb"):
        assert any(frame in block for block in run)
    assert told.count("is_anomaly") >= 3


def test_the_walkthrough_finds_the_malignant(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SMALL_FITS)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "TMPDIR": str(tmp_path)}
    command = [sys.executable, str(ROOT / "examples" / "walkthrough.py")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    auroc = re.search(r"AUROC (0\.\d+)", done.stdout)
    assert auroc is not None
    assert float(auroc.group(1)) > 0.85
    assert "contributions: None" in done.stdout
