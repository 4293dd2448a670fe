"""Prints the OpenAPI document of a service without models: make openapi."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from service.app import create_app
from service.settings import Settings


def document() -> str:
    """The text of docs/openapi.json."""
    with tempfile.TemporaryDirectory() as folder:
        return json.dumps(create_app(Settings(models_dir=Path(folder))).openapi(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(document(), end="")
