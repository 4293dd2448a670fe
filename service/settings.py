"""Every setting of the service: one field, one environment variable, one line that says what it does."""
# ruff: noqa: RUF009 - _setting is dataclasses.field, with words

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast

from service.manifest import NAME

PREFIX = "ANOMALY_"
SECRET = ("api_keys", "admin_keys")  # settings whose values no error shows
NO_OPTIONS: Mapping[str, str] = MappingProxyType({})
# What Kubernetes tells every pod of a Service called anomaly, or anomaly-something.
SERVICE_LINK = re.compile(
    r"ANOMALY_(\w+_)?(PORT(_\d+_(TCP|UDP|SCTP))?=(tcp|udp|sctp)://\S+|PORT_\d+_(TCP|UDP|SCTP)_(PROTO=(tcp|udp|sctp)|PORT=\d+|ADDR=\S+)"
    r"|SERVICE_HOST=[0-9a-fA-F.:]+|SERVICE_PORT(_\w+)?=\d+)"
)
SHOWN = 60  # letters of a value that an error shows
LogFormat = Literal["json", "text"]
ProviderChoice = Literal["auto", "cuda", "cpu"]


class SettingsError(ValueError):
    """A setting has a value that cannot be used; the text names the variable and what it takes."""


def _whole(low: int, high: int = 1 << 62) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise ValueError(f"a whole number, {low} or more" if high == 1 << 62 else f"a whole number from {low} to {high}")
        return int(text)

    return parse


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1e6:
        raise ValueError("seconds, 0 or more")
    return value


def _interval(text: str) -> float:
    value = _seconds(text)
    if 0 < value < 0.1:
        raise ValueError("seconds, 0 or at least 0.1")
    return value


def _some_seconds(text: str) -> float:
    value = _seconds(text)
    if not value:
        raise ValueError("seconds, more than 0")
    return value


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"one of {', '.join(words)}")
        return text.lower()

    return parse


def _truth(text: str) -> bool:
    return _one_of("true", "false", "1", "0")(text) in ("true", "1")


def _several(text: str) -> tuple[str, ...]:
    each = tuple(part.strip() for part in text.split(",") if part.strip())
    if not each:
        raise ValueError("one or more, comma-separated, or unset")
    return each


def _keys(text: str) -> tuple[str, ...]:
    keys = _several(text)
    if has_blank(keys):
        raise ValueError("keys without blanks, comma-separated")
    return keys


def has_blank(keys: Iterable[str]) -> bool:
    """Whether there is a blank within a key, as where a comma was forgotten."""
    return any(len(key.split()) > 1 for key in keys)


def _paths(text: str) -> tuple[Path, ...]:
    return tuple(map(Path, _several(text)))


def _version(text: str) -> tuple[str, str]:
    name, _, version = text.partition(":")
    if not name or not version or ":" in version:
        raise ValueError("NAME:VERSION, such as payments:20261126T193030Z-018aeb")
    return name, version


def _model(text: str) -> str:
    if not NAME.fullmatch(text):
        raise ValueError("the name of a model: letters, digits, '.', '_' and '-', at most 100, beginning with a letter or digit")
    return text


def _setting(default: Any, parse: Callable[[str], Any], meaning: str) -> Any:
    return field(default=default, metadata={"parse": parse, "meaning": meaning})


@dataclass(frozen=True)
class Settings:
    """The values in use. `Settings.read()` takes them from the environment, at the call and never at import."""

    models_dir: Path = _setting(Path("models"), Path, "the folder of the bundles, NAME/VERSION/")
    model: str | None = _setting(None, _model, "the model that answers on /score; unset with one model in the folder: that one")
    shadow: tuple[str, str] | None = _setting(
        None, _version, "NAME:VERSION, scored beside the served version of that model and never answered, only compared"
    )
    host: str = _setting("127.0.0.1", str, "the address that `serve` listens on; `::` is IPv6 alone with one worker")
    port: int = _setting(8000, _whole(0, 65535), "the port that `serve` listens on; 0: any free one")
    workers: int = _setting(1, _whole(1, 1024), "processes that `serve` starts; each holds its own copy of the models")
    provider: ProviderChoice = _setting(
        "auto",
        _one_of("auto", "cuda", "cpu"),
        "where graphs run: auto, on a GPU if there is one, but for so few records at a time that the CPU is "
        "the quicker (fewer than 128, of a wide table fewer still); cpu; cuda, where no usable GPU is an error at start",
    )
    api_keys: tuple[str, ...] = _setting((), _keys, "keys that may score and read, comma-separated; none: open to all")
    api_keys_file: Path | None = _setting(
        None,
        Path,
        "a file of such keys, one a line or comma-separated, a line that begins with # is a comment; looked at again as often as "
        "CURRENT is",
    )
    admin_keys: tuple[str, ...] = _setting((), _keys, "keys that may also reload, comma-separated; none: admin endpoints are off")
    admin_keys_file: Path | None = _setting(None, Path, "a file of such keys, looked at again likewise")
    metrics_need_key: bool = _setting(False, _truth, "whether GET /metrics asks for an API key")
    docs_need_key: bool = _setting(
        False, _truth, "whether /docs and /openapi.json ask for an API key; else they tell no values where there are keys"
    )
    page: bool = _setting(True, _truth, "whether / is a page for people; without it, nothing is kept for it either")
    page_values: bool = _setting(False, _truth, "whether the page shows values of the latest flagged records; else none are kept")
    max_body_bytes: int = _setting(16 << 20, _whole(1024), "the largest body, also after inflating; above it 413")
    held_bytes: int = _setting(
        128 << 20,
        _whole(1024),
        "the most bytes of bodies, and of answers not taken, held at a time, but at least ANOMALY_MAX_BODY_BYTES; above it 429",
    )
    max_records: int = _setting(10_000, _whole(1), "the most records a request; above it 413")
    queue_rows: int = _setting(40_000, _whole(1), "the most rows waiting or being scored in the background; above it 429")
    inline_bytes: int = _setting(32 << 10, _whole(0), "bodies up to this size are scored at once, larger ones in the background")
    reload_seconds: float = _setting(5.0, _interval, "how often a new CURRENT is looked for, from 0.1 on; 0: only when asked")
    trial_seconds: float = _setting(
        30.0,
        _seconds,
        "time that a new version has to load in a process of its own, before it replaces a served one; 0: no trial",
    )
    trusted_keys: tuple[Path, ...] = _setting(
        (), _paths, "PEM files of Ed25519 public keys, comma-separated; with any, only bundles signed by one of them are used"
    )
    cached_versions: int = _setting(4, _whole(1, 1000), "versions kept loaded beside the served ones, for their own routes")
    health_seconds: float = _setting(
        5.0, _seconds, "the age of the last good score from which /health scores a record of its own"
    )
    head_seconds: float = _setting(5.0, _some_seconds, "time for the head of a request to arrive; then 408 (`serve` only)")
    request_seconds: float = _setting(
        30.0,
        _some_seconds,
        "time for the whole of a request to arrive, then 408; also for a client that takes no answer (`serve` only)",
    )
    idle_seconds: int = _setting(
        75,
        _whole(1, 86_400),
        "time that a connection stays open between requests; more than that of a proxy in front, which may else send a request "
        "where nobody reads it any more (`serve` only)",
    )
    shutdown_seconds: int = _setting(30, _whole(0, 3600), "time that requests under way have to finish after SIGTERM")
    tracing: bool = _setting(
        False, _truth, "whether requests for scores are traced by OpenTelemetry, as its own variables OTEL_* say (extra `trace`)"
    )
    log_format: LogFormat = _setting("json", _one_of("json", "text"), "how log lines are written: json or text")
    log_requests: bool = _setting(True, _truth, "whether each request is logged, in one line")

    @classmethod
    def read(cls, environment: Mapping[str, str] = os.environ, options: Mapping[str, str] = NO_OPTIONS) -> Settings:
        """The settings that these variables give; empty ones count as unset. Raises SettingsError.

        options: what a variable is called in errors, whose value is that of an option of the command line.
        """
        known = {variable(setting): setting for setting in fields(cls)}
        linked = service_links(environment)
        unknown = sorted(name for name in environment if name.startswith(PREFIX) and name not in known and name not in linked)
        if unknown:
            raise SettingsError(f"{unknown[0]} is no setting of the service; there are {', '.join(known)}")
        values = {}
        for name, setting in known.items():
            text = "" if name in linked else environment.get(name, "").strip()
            if text:
                try:
                    values[setting.name] = setting.metadata["parse"](text)
                except ValueError as error:
                    found = "" if setting.name in SECRET else f", not {text[:SHOWN]!r}"
                    raise SettingsError(f"{options.get(name, name)} must be {error}{found}") from None
        settings = cls(**values)
        if "held_bytes" in values and settings.held_bytes < settings.max_body_bytes:
            raise SettingsError(
                f"{PREFIX}HELD_BYTES must be at least {PREFIX}MAX_BODY_BYTES, which is {settings.max_body_bytes}: a body that is "
                "alone has room"
            )
        unguarded = [name for name in ("metrics_need_key", "docs_need_key") if getattr(settings, name)]
        if unguarded and not settings.api_keys and not settings.api_keys_file:
            raise SettingsError(
                f"{PREFIX}{unguarded[0].upper()} needs {PREFIX}API_KEYS or {PREFIX}API_KEYS_FILE: there is no key"
            )
        if settings.workers > 1 and not settings.reload_seconds and (settings.admin_keys or settings.admin_keys_file):
            raise SettingsError(
                f"{PREFIX}RELOAD_SECONDS must be above 0 with {settings.workers} workers and admin keys: a reload reaches one "
                "worker, and the others follow only by looking for a new CURRENT themselves"
            )
        return settings


def service_links(environment: Mapping[str, str]) -> set[str]:
    """The variables that are Kubernetes' and no settings, although they begin as these do."""
    return {name for name, text in environment.items() if SERVICE_LINK.fullmatch(f"{name}={text}")}


def variable(setting: Field[Any]) -> str:
    """The environment variable of a field of Settings."""
    return PREFIX + setting.name.upper()


def table() -> list[tuple[str, str, str]]:
    """(variable, default, meaning) of every setting, for the documentation."""
    rows = []
    for setting in fields(Settings):
        default = cast(Any, setting.default)
        shown = "" if default is None or default == () else str(default).lower() if isinstance(default, bool) else str(default)
        rows.append((variable(setting), shown, cast(str, setting.metadata["meaning"])))
    return rows
