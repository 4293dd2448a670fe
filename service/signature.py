"""Ed25519 signatures of bundles: who published what is served. The manifest is signed, which has the hashes of all other files.

Needs the extra `sign` (the package cryptography), which is imported only where a key is given.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from service.manifest import SIGNATURE, BundleError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

MAX_KEY_BYTES = 16 << 10
PEM = re.compile(rb"-----BEGIN [^-]*-----.*?-----END [^-]*-----", re.DOTALL)


def signer(path: Path) -> Callable[[bytes], bytes]:
    """Makes the content of manifest.sig of a manifest, with the private key of a PEM file. Raises BundleError."""
    _needs_cryptography("--sign-key")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415 - an extra
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    try:
        key = load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError) as error:  # TypeError: the key is encrypted
        raise BundleError(f"{path}: not the private key of a PEM file, without a password") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise BundleError(f"{path}: not an Ed25519 key; make one with 'openssl genpkey -algorithm ed25519'")
    name = key_id(key.public_key())
    return lambda manifest: f"{name} {base64.b64encode(key.sign(manifest)).decode()}\n".encode()


def read_keys(paths: Sequence[Path]) -> dict[str, Ed25519PublicKey]:
    """The public keys of these PEM files, one or more in each, by id. Raises BundleError."""
    _needs_cryptography("ANOMALY_TRUSTED_KEYS")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415 - an extra
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    keys = {}
    for path in paths:
        content = _read(path)
        for block in PEM.findall(content) or [content]:
            try:
                key = load_pem_public_key(block)
            except ValueError as error:
                raise BundleError(f"ANOMALY_TRUSTED_KEYS: {path} is not a PEM file of public keys") from error
            if not isinstance(key, Ed25519PublicKey):
                raise BundleError(f"ANOMALY_TRUSTED_KEYS: {path} has a key that is not an Ed25519 key")
            keys[key_id(key)] = key
    return keys


def check(manifest: bytes, signature: bytes | None, paths: Sequence[Path]) -> None:
    """Raises BundleError where the manifest's bytes are not signed by one of the keys of these files."""
    keys = read_keys(paths)
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - an extra, which read_keys has found

    if signature is None:
        raise BundleError("it is not signed, and ANOMALY_TRUSTED_KEYS is set; publish it with --sign-key")
    name, content = parse(signature)
    if name not in keys:
        raise BundleError(f"it is signed by key {name}, which is not among ANOMALY_TRUSTED_KEYS ({', '.join(keys)})")
    try:
        keys[name].verify(content, manifest)
    except InvalidSignature:
        raise BundleError(f"its signature is not that of key {name}: the manifest was changed after it was signed") from None


def parse(signature: bytes) -> tuple[str, bytes]:
    """The key's id and the 64 bytes of a signature, of the content of manifest.sig. Raises BundleError."""
    try:
        name, content = signature.decode("ascii").split()
        return name, base64.b64decode(content, validate=True)
    except ValueError:
        raise BundleError(f"{SIGNATURE} is not a key's id and a signature in base64") from None


def key_id(key: Ed25519PublicKey) -> str:
    """16 hexadecimal digits of the SHA-256 of the raw public key: what a key is called."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(MAX_KEY_BYTES)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from error


def _needs_cryptography(setting: str) -> None:
    try:
        import cryptography  # noqa: F401, PLC0415 - an extra
    except ImportError as error:
        raise BundleError(f"{setting} needs the package cryptography: pip install 'tabular-anomaly-service[sign]'") from error
