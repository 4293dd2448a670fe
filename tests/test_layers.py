"""One direction of imports, and a service that stays light: what the architecture promises."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parent.parent
PRODUCT = sorted([*ROOT.glob("service/*.py"), *ROOT.glob("training/*.py")])


def test_imports_go_one_way():
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0


def test_the_service_loads_nothing_heavy():
    heavy = {"torch", "pandas", "sklearn", "matplotlib", "onnx", "pyarrow", "training", "rich", "httpx"}
    code = f"import service.app, service.__main__, service.bulk, sys; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_only_one_file_of_the_service_knows_onnxruntime():
    assert [path.name for path in PRODUCT if "import onnxruntime" in path.read_text()] == ["session.py"]


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_nothing_unsafe_is_called(path):
    """No pickle, eval, exec, yaml.load or shell=True: on the syntax tree, not on the text."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name.partition(".")[0] for alias in node.names} | {getattr(node, "module", None) or ""}
            assert not names & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "yaml.load"}
            assert not any(keyword.arg == "shell" for keyword in node.keywords)
