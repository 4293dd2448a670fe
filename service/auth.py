"""Who may do what: API keys for scoring and reading, admin keys for everything."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable, Mapping
from logging import INFO, WARNING
from pathlib import Path

from service import log
from service.errors import Problem
from service.settings import Settings, SettingsError, has_blank


class Keys:
    """The digests of the keys. Every comparison is with all of them and takes the same time, whichever fits.

    Files of keys are read again every so many seconds, so that a key is replaced without a restart.
    """

    def __init__(self, settings: Settings) -> None:
        """Raises SettingsError where a file of keys cannot be read or holds none."""
        self._settings = settings
        self._admin, self._api = self._read()
        self.open = not self._api  # no API key set: anybody may score
        self.admin_off = not self._admin
        self.changed: Callable[[], None] = lambda: None  # called when the files hold other keys

    def check_api(self, headers: Mapping[bytes, bytes]) -> None:
        """Passes an API or admin key; else raises the 401."""
        if not self.open and not self._one_of([*self._api, *self._admin], headers):
            raise _unauthorized()

    def check_admin(self, headers: Mapping[bytes, bytes]) -> None:
        """Passes an admin key; else raises the 401, or the 403 for a key without that right or where no admin key is set."""
        if self.admin_off:
            raise Problem(
                "admin_disabled", "No admin key is set, so that nobody may do this: set ANOMALY_ADMIN_KEYS and restart."
            )
        if self._one_of(self._admin, headers):
            return
        if self._one_of(self._api, headers):
            raise Problem("forbidden", "This key may score, but not administer: use an admin key.")
        raise _unauthorized()

    def _read(self) -> tuple[list[bytes], list[bytes]]:
        settings = self._settings
        admin, api = (
            (*settings.admin_keys, *_read(settings.admin_keys_file)),
            (*settings.api_keys, *_read(settings.api_keys_file)),
        )
        return [_digest(key) for key in admin], [_digest(key) for key in api]

    async def watch_for_ever(self) -> None:
        """Takes up what the files hold now, where there are files. One that is gone or empty changes nothing: it never opens the
        service."""
        told, settings = "", self._settings
        while settings.reload_seconds and (settings.api_keys_file or settings.admin_keys_file):
            await asyncio.sleep(settings.reload_seconds)
            try:
                found = await asyncio.to_thread(self._read)
            except SettingsError as error:
                if str(error) != told:
                    told = str(error)
                    log.event(WARNING, "keys not read again: those of before hold", reason=told)
                continue
            told = ""
            if found != (self._admin, self._api):
                self._admin, self._api = found
                self.changed()
                log.event(INFO, "keys changed", api=str(len(self._api)), admin=str(len(self._admin)))

    @staticmethod
    def _one_of(digests: list[bytes], headers: Mapping[bytes, bytes]) -> bool:
        given = _given(headers)
        if given is None:
            return False
        digest = hashlib.sha256(given).digest()
        return bool(sum([hmac.compare_digest(digest, known) for known in digests]))  # a list: all are compared


def _given(headers: Mapping[bytes, bytes]) -> bytes | None:
    scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
    # one of another scheme is for a proxy before this service
    return key.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key")


def _unauthorized() -> Problem:
    return Problem(
        "unauthorized",
        "Send a valid key as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'.",
        headers={"WWW-Authenticate": 'Bearer realm="anomaly"'},
    )


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _read(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not text in UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise SettingsError(f"{path}: the file of keys cannot be read: {reason}") from None
    keys = [key.strip() for line in lines if not line.lstrip().startswith("#") for key in line.split(",") if key.strip()]
    if has_blank(keys):
        raise SettingsError(f"{path}: a key has a blank in it; write one a line, or comma-separated, and comments after '#'")
    if any(key.startswith("#") for key in keys):
        raise SettingsError(f"{path}: a key begins with '#'; write comments on lines of their own")
    if not keys:
        raise SettingsError(f"{path}: the file of keys holds none")
    return keys
