"""Signed bundles: with trusted keys, what is unsigned, changed or signed by another is refused by every command."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from service import promotion, signature
from service.__main__ import main
from service.bundle import current_version, read_bundle
from service.manifest import MANIFEST, SIGNATURE, BundleError
from service.metrics import Metrics
from service.registry import Registry
from service.settings import Settings
from tests.service.client import check_problem
from tests.service.conftest import Serve
from tests.service.tiny_bundle import publish
from training.__main__ import main as training


def make_keys(folder: Path, key: Any = None) -> tuple[Path, Path]:
    """PEM files as openssl writes them: the private key and the public one."""
    folder.mkdir(parents=True, exist_ok=True)
    key = key or Ed25519PrivateKey.generate()
    private, public = folder / "sign.pem", folder / "trusted.pem"
    plain, form = serialization.NoEncryption(), serialization.PublicFormat.SubjectPublicKeyInfo
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    public.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, form))
    return private, public


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return make_keys(tmp_path / "keys")


def sign(folder: Path, key: Path) -> None:
    (folder / SIGNATURE).write_bytes(signature.signer(key)((folder / MANIFEST).read_bytes()))


@pytest.fixture
def signed(models_dir: Path, keys: tuple[Path, Path]) -> Path:
    folder = next((models_dir / "tiny").glob("2*"))
    sign(folder, keys[0])
    return folder


def test_what_is_signed_by_a_trusted_key_is_read(signed: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    other = make_keys(tmp_path / "other")[1]
    read = read_bundle(signed, trusted=[other, keys[1]])
    assert read.signature is not None
    assert read_bundle(signed) == read  # without trusted keys, nothing is asked


def test_what_is_not_is_refused(signed: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    other = make_keys(tmp_path / "other")
    with pytest.raises(BundleError, match="not among ANOMALY_TRUSTED_KEYS"):
        read_bundle(signed, trusted=[other[1]])
    good = (signed / SIGNATURE).read_bytes()
    for content in (b"", b"x", b"a b c", good[:-10], b"\xff" * 90, good * 3):
        (signed / SIGNATURE).write_bytes(content)
        with pytest.raises(BundleError, match="is not"):
            read_bundle(signed, trusted=[keys[1]])
    (signed / SIGNATURE).write_bytes(good)
    manifest = (signed / MANIFEST).read_bytes()
    (signed / MANIFEST).write_bytes(manifest.replace(b'"auroc": 0.9', b'"auroc": 1.0').replace(b'"auroc":0.9', b'"auroc":1.0'))
    assert (signed / MANIFEST).read_bytes() != manifest
    with pytest.raises(BundleError, match="changed after it was signed"):
        read_bundle(signed, trusted=[keys[1]])
    (signed / SIGNATURE).unlink()
    with pytest.raises(BundleError, match="not signed"):
        read_bundle(signed, trusted=[keys[1]])


def test_a_file_may_hold_several_keys(models_dir: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    """As it does while one takes the place of another."""
    _, other = make_keys(tmp_path / "other")
    for together in ((keys[1], other), (other, keys[1])):
        both = tmp_path / "both.pem"
        both.write_bytes(b"# in turn\n".join(path.read_bytes() for path in together))
        assert signature.read_keys([both]).keys() == signature.read_keys(together).keys()
        assert len(signature.read_keys([both])) == 2


def test_keys_that_cannot_be_used(keys: tuple[Path, Path], tmp_path: Path) -> None:
    private, public = make_keys(tmp_path / "ec", ec.generate_private_key(ec.SECP256R1()))
    (tmp_path / "text").write_text("text")
    cut = tmp_path / "cut"
    cut.write_text(keys[1].read_text() + keys[1].read_text().replace("MCow", "MCo"))
    for path, words in (
        (tmp_path / "none", "cannot be read"),
        (tmp_path / "text", "not the"),
        (private, "not an Ed25519"),
        (keys[1], "not the private"),
    ):
        with pytest.raises(BundleError, match=words):
            signature.signer(path)
    for path, words in (
        (tmp_path / "none", "cannot be read"),
        (tmp_path / "text", "is not a PEM file of public"),
        (public, "not an Ed25519"),
        (cut, "is not a PEM file of public"),
    ):
        with pytest.raises(BundleError, match=words):
            signature.read_keys([path])


def test_every_command_refuses_the_unsigned(
    models_dir: Path, keys: tuple[Path, Path], tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setenv("ANOMALY_TRUSTED_KEYS", str(keys[1]))
    where, table = ("--models-dir", str(models_dir)), tmp_path / "t.csv"
    table.write_text("amount,label\n1,0\n")
    version = next((models_dir / "tiny").glob("2*")).name
    for command in (
        ("score", str(table), "--model", "tiny", "--output", str(tmp_path / "out.csv")),
        ("inspect", "tiny"),
        ("promote", "tiny", version),
    ):
        assert main([*command, *where]) == 2, command
        assert "not signed" in capsys.readouterr().err
    for command in (
        ("evaluate", str(table), "--model", "tiny", "--label", "label", "--normal", "0"),
        ("sample", "--model", "tiny", "--rows", "1", "--output", "-"),
    ):
        assert training([*command, *where]) == 2, command
        assert "not signed" in capsys.readouterr().err


def test_a_rollback_needs_a_signature_too(signed: Path, models_dir: Path, keys: tuple[Path, Path]) -> None:
    publish(models_dir, version="20250101T000000Z-made00", current=False)
    with pytest.raises(BundleError, match="not signed"):
        promotion.rollback(models_dir, "tiny", [keys[1]])
    assert current_version(models_dir, "tiny") == signed.name


def test_a_service_with_trusted_keys(serve: Serve, signed: Path, models_dir: Path, keys: tuple[Path, Path]) -> None:
    client = serve(models_dir=models_dir, trusted_keys=(keys[1],), admin_keys=("root",))
    assert client.get("/health").status_code == 200
    folder = publish(models_dir, version="20260102T000000Z-made02")
    document = check_problem(client.post("/models/tiny/reload", headers={"x-api-key": "root"}), 409, "bundle_refused")
    assert "not signed" in document["detail"]
    sign(folder, keys[0])
    assert client.post("/models/tiny/reload", headers={"x-api-key": "root"}).status_code == 200
    with pytest.raises(BundleError, match="cannot be read"):
        asyncio.run(Registry(Settings(models_dir=models_dir, trusted_keys=(folder / "none.pem",)), Metrics()).start())


def test_inspect_says_by_which_key(
    signed: Path, models_dir: Path, keys: tuple[Path, Path], monkeypatch: Any, capsys: Any
) -> None:
    name = next(iter(signature.read_keys([keys[1]])))
    assert main(["inspect", "tiny", "--models-dir", str(models_dir)]) == 0
    assert f"signed       by key {name}, not checked" in capsys.readouterr().out
    monkeypatch.setenv("ANOMALY_TRUSTED_KEYS", str(keys[1]))
    assert main(["inspect", "tiny", "--models-dir", str(models_dir)]) == 0
    assert f"signed       by key {name}, which ANOMALY_TRUSTED_KEYS has" in capsys.readouterr().out


def test_without_the_package_it_says_what_to_install(keys: tuple[Path, Path]) -> None:
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        f"from service.signature import read_keys; from pathlib import Path; read_keys([Path({str(keys[1])!r})])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'tabular-anomaly-service[sign]'" in done.stderr


def test_what_reads_a_bundle_says_so_too(models_dir: Path, keys: tuple[Path, Path]) -> None:
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        f"from service.__main__ import main; sys.exit(main(['inspect', 'tiny', '--models-dir', {str(models_dir)!r}]))"
    )
    environment = {**os.environ, "ANOMALY_TRUSTED_KEYS": str(keys[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'tabular-anomaly-service[sign]'" in done.stderr


def test_the_package_is_loaded_only_where_a_key_is_given(bundle_dir: Path) -> None:
    code = (
        "import service.app, service.bulk, service.detector, sys\n"
        "from service.bundle import read_bundle; from pathlib import Path\n"
        f"read_bundle(next(Path({str(bundle_dir / 'tiny')!r}).glob('2*'))); print('cryptography' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert Settings.read({"ANOMALY_TRUSTED_KEYS": "a.pem, b.pem"}).trusted_keys == (Path("a.pem"), Path("b.pem"))
