"""One direction of imports, and a service that stays light: what the architecture promises."""

import subprocess
import sys
from pathlib import Path

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


def test_a_refusal_of_training_does_not_wait_for_torch() -> None:
    code = "import sys; from training.__main__ import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"
    for command in (["fit", "no.csv", "--model", "m"], ["evaluate", "no.csv", "--model", "m", "--label", "y", "--normal", "0"]):
        done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True, cwd=ROOT)
        assert done.stdout.strip() == "2 False"
