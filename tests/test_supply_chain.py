"""What the product is built of and built with: no code is made from data, and the image holds only what it needs."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PRODUCT = sorted([*ROOT.glob("service/*.py"), *ROOT.glob("training/*.py")])
MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "yaml",
    "code",
    "codeop",
    "ctypes",
}
NEEDED = {("session.py", "ctypes"), ("memory.py", "ctypes")}  # is there an NVIDIA driver? free memory goes back
CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.execv", "os.execve", "os.spawnl"),
    *("subprocess.getoutput", "subprocess.getstatusoutput", "yaml.load", "tempfile.mktemp", "runpy.run_path"),
    *("torch.jit.load", "torch.hub.load", "ssl._create_unverified_context", "importlib.import_module"),
}


def unsafe(text: str, file: str = "") -> list[str]:
    """What a module should not do, found on its syntax tree."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = (
                {alias.name.partition(".")[0] for alias in node.names} if isinstance(node, ast.Import) else {node.module or ""}
            )
            found += [f"import {name}" for name in names & MODULES if (file, name) not in NEEDED]
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            said = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if name in CALLS:
                found.append(name)
            if name == "torch.load" and said.get("weights_only") != "True":
                found.append("torch.load without weights_only")
            if said.get("shell", "False") != "False" or said.get("allow_pickle", "False") != "False":
                found.append(f"{name} with {said}")
            if (
                name.endswith((".load", ".loadtxt", ".genfromtxt"))
                and name.startswith(("np.", "numpy."))
                and "allow_pickle" not in said
            ):
                found.append(f"{name} without allow_pickle=False")
            if said.get("verify") == "False":
                found.append(f"{name} without verifying")
    return found


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_nothing_unsafe_is_called(path: Path) -> None:
    assert unsafe(path.read_text(), path.name) == []


@pytest.mark.parametrize(
    "text",
    [
        *("import pickle", "from pickle import loads", "import yaml", "import joblib.numpy_pickle", "eval('1')", "exec(text)"),
        *("os.system('ls')", "subprocess.run(c, shell=True)", "subprocess.run(c, shell=flag)", "torch.load(p)"),
        *("torch.load(p, weights_only=False)", "np.load(p)", "np.load(p, allow_pickle=True)", "httpx.get(u, verify=False)"),
    ],
)
def test_it_would_be_found(text: str) -> None:
    assert unsafe(text)


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
PINS = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in LINES)}
CUDA = re.compile("nvidia-.*|cuda-.*|triton")  # torch's and onnxruntime-gpu's own choice


def needs(*extras: str) -> list[Requirement]:
    """What pyproject.toml names, for itself and for its extras."""
    named = PROJECT["dependencies"] + [need for extra in extras for need in PROJECT["optional-dependencies"][extra]]
    return [Requirement(need) for need in named]


def brought(wanted: list[Requirement]) -> dict[str, str | None]:
    """All that requirements bring here, down to the last, with the version that is installed; None of what is not."""
    found: dict[str, str | None] = {}
    looked, left = set(), [(need, {""}) for need in wanted]
    while left:
        need, extras = left.pop()
        name = canonicalize_name(need.name)
        if str(need) in looked or not (need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in extras)):
            continue
        looked.add(str(need))
        try:
            there = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
            continue
        found[name] = there.version.partition("+")[0]  # 2.0+cpu is a build of 2.0
        left += [(Requirement(text), need.extras or {""}) for text in there.requires or ()]
    return found


def test_every_dependency_is_pinned() -> None:
    """pip resolves each extra from constraints.txt alone: what is named in pyproject.toml has one exact version there."""
    assert [line for line in LINES if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][^ ]*", line)] == []
    assert {canonicalize_name(need.name) for need in needs(*PROJECT["optional-dependencies"])} - PINS.keys() == set()
    assert PINS["onnxruntime"] == PINS["onnxruntime-gpu"]  # so that both images score as the tests did


def test_what_dependencies_need_is_pinned_too() -> None:
    found = brought(needs("gpu", "cpu", "sign", "trace", "client", "train", "track"))
    assert len(found) > 40
    assert {name for name in found if not CUDA.fullmatch(name)} - PINS.keys() == set()
    assert {name: version for name, version in found.items() if version not in (None, PINS.get(name))} == {}


def test_pins_install_on_the_oldest_python_that_is_promised() -> None:
    oldest = PROJECT["requires-python"].removeprefix(">=") + ".0"
    for there in importlib.metadata.distributions():
        name, python = canonicalize_name(there.name), there.metadata.get("Requires-Python")
        if python is not None and PINS.get(name) == there.version:
            assert SpecifierSet(python).contains(oldest), (name, python)


DOCKERFILE = (ROOT / "Dockerfile").read_text()


def stages() -> dict[str, list[str]]:
    """The instructions of each stage, comments and line ends taken out."""
    found: dict[str, list[str]] = {"": []}
    name = ""
    for line in re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE)).splitlines():
        if line.startswith("FROM"):
            name = line.split(" AS ")[1]
            found[name] = []
        if line.strip():
            found[name].append(line.strip())
    return found


def inherited(stage: str) -> list[str]:
    """The instructions that a stage ends up with, of the stages that it is made from."""
    base = stages()[stage][0].split()[1]
    return [*(inherited(base) if base in stages() else []), *stages()[stage]]


def test_every_stage_is_made_of_the_base_that_is_asked_for() -> None:
    assert re.search(r"^ARG PYTHON_IMAGE=python:\d+\.\d+-slim-\w+$", DOCKERFILE, re.MULTILINE)  # a version, never latest
    bases = {lines[0].split()[1] for name, lines in stages().items() if name}
    assert bases == {"${PYTHON_IMAGE}", "base"}


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_an_image_that_serves(target: str) -> None:
    lines = inherited(target)
    user = [line.split()[1] for line in lines if line.startswith("USER")]
    assert user == ["10001:10001"]  # a number, so that runAsNonRoot can be checked; and never changed back
    assert not [line for line in lines if line.startswith("RUN")]  # no build step, no shell in what is served
    assert [line for line in lines if line.startswith("HEALTHCHECK")]
    assert "PYTHONDONTWRITEBYTECODE=1" in " ".join(lines)  # its root may be read-only
    assert not [line for line in lines if line.startswith("VOLUME")]
    commands = [json.loads(line.partition(" ")[2]) for line in lines if line.startswith(("ENTRYPOINT", "CMD"))]
    assert commands == [["python", "-m", "service"], ["serve"]]  # no shell between SIGTERM and the service
    copied = [line for line in lines if line.startswith("COPY")]
    assert copied == ["COPY models/example ./models/example", f"COPY --from=install-{target} /venv /venv"]


def test_nothing_is_left_of_the_build() -> None:
    installs = [line for lines in stages().values() for line in lines if "pip " in line]
    assert len(installs) == 3
    assert all("--no-cache-dir" in line for line in installs)
    assert all("-c /constraints.txt" in line and "pip uninstall --yes pip" in line for line in installs if "pip install" in line)
    assert {extra for line in installs for extra in re.findall(r"\[([\w,]+)\]", line)} == {"cpu,sign,trace", "cuda,sign,trace"}


def test_no_secret_goes_in() -> None:
    """No argument or variable that could be a key, nothing fetched by ADD, and only what is copied is sent to the builder."""
    lines = [line for stage in stages().values() for line in stage]
    assert not [line for line in lines if line.startswith("ADD")]
    assert not re.search(r"(KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL)", DOCKERFILE.upper())
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert ignored[0] == "*"
    sent = {line[1:] for line in ignored if line.startswith("!")}
    copied = {source for line in lines if line.startswith("COPY") and "--from" not in line for source in line.split()[1:-1]}
    assert sent == copied


AUDITS = {
    "none": ('{"dependencies": [{"name": "a", "version": "1", "vulns": []}]}', 0, "1 packages looked up"),
    "one": (
        '{"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "X-1", "fix_versions": ["2"]}]}]}',
        1,
        "a 1: X-1, mended in 2",
    ),
    "unknown": ('{"dependencies": [{"name": "a", "skip_reason": "Dependency not found"}]}', 3, "NOT DONE for 1 of 1"),
    "unreachable": ("", 3, "NOT DONE: ConnectionError"),
}


@pytest.mark.parametrize("name", AUDITS)
def test_make_audit_does_not_pass_where_nothing_was_looked_up(tmp_path: Path, name: str) -> None:
    told, code, words = AUDITS[name]
    python, audit = tmp_path / "python", tmp_path / "pip-audit"
    python.write_text("""#!/bin/sh\necho '[{"name": "a", "version": "1+cu130"}, {"name": "pip", "version": "1"}]'\n""")
    answer = f"echo '{told}' > $(eval echo \\${{$#}})" if told else "echo ConnectionError >&2; exit 1"
    audit.write_text(f"#!/bin/sh\n[ $(cat $2) = a==1 ] || exit 9\n{answer}\n")
    for tool in (python, audit):
        tool.chmod(0o755)
    command = [sys.executable, str(ROOT / ".ci" / "audit"), str(python), str(audit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done
    assert words in done.stdout + done.stderr
