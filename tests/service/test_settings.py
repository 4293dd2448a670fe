"""Settings come from the environment, when asked, and say what is wrong with them."""

from dataclasses import fields
from pathlib import Path

import pytest

from service.settings import Settings, SettingsError, service_links, table, variable


def test_defaults_and_values() -> None:
    assert Settings.read({}) == Settings()
    read = Settings.read(
        {
            "ANOMALY_PORT": "9000",
            "ANOMALY_API_KEYS": " a, b,",
            "ANOMALY_MODELS_DIR": "/m",
            "ANOMALY_PROVIDER": "CPU",
            "ANOMALY_MODEL": "",
        }
    )
    assert (read.port, read.api_keys, read.models_dir, read.provider, read.model) == (9000, ("a", "b"), Path("/m"), "cpu", None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "http"),
        ("PORT", "65536"),
        ("PORT", "-1"),
        ("PORT", "\u0663"),
        ("WORKERS", "0"),
        ("PROVIDER", "gpu"),
        ("LOG_FORMAT", "xml"),
        ("RELOAD_SECONDS", "soon"),
        ("RELOAD_SECONDS", "-1"),
        ("RELOAD_SECONDS", "nan"),
        ("RELOAD_SECONDS", "0.000001"),
        ("API_KEYS", "a b"),
        ("ADMIN_KEYS", "a, b\tc"),
        ("MAX_BODY_BYTES", "1e6"),
        ("METRICS_NEED_KEY", "maybe"),
        ("MODLE", "x"),
        ("MODEL", "../x"),
        ("API_KEYS", " , "),
        ("ADMIN_KEYS", ","),
        ("TRUSTED_KEYS", ","),
    ],
)
def test_a_bad_value_is_named_and_shown_unless_it_is_secret(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"ANOMALY_{name}") as refused:
        Settings.read({f"ANOMALY_{name}": value})
    shown = f", not {value.strip()!r}" in str(refused.value)
    assert shown == (name not in ("API_KEYS", "ADMIN_KEYS", "MODLE"))


@pytest.mark.parametrize("key", ["ADMIN_KEYS", "ADMIN_KEYS_FILE"])
def test_a_reload_that_would_reach_one_worker_of_several_is_refused_at_start(key: str) -> None:
    given = {"ANOMALY_WORKERS": "2", "ANOMALY_RELOAD_SECONDS": "0", f"ANOMALY_{key}": "root"}
    with pytest.raises(SettingsError, match="ANOMALY_RELOAD_SECONDS must be above 0 with 2 workers"):
        Settings.read(given)
    for mended in ({"ANOMALY_WORKERS": "1"}, {"ANOMALY_RELOAD_SECONDS": "0.5"}, {f"ANOMALY_{key}": ""}):
        Settings.read({**given, **mended})


def test_every_setting_is_explained() -> None:
    rows = {name: (default, meaning) for name, default, meaning in table()}
    assert list(rows) == [variable(field) for field in fields(Settings)]
    assert all(meaning for _, meaning in rows.values())
    named = {
        "MODELS_DIR",
        "MODEL",
        "HOST",
        "PORT",
        "WORKERS",
        "PROVIDER",
        "API_KEYS",
        "ADMIN_KEYS",
        "API_KEYS_FILE",
        "ADMIN_KEYS_FILE",
    }
    named |= {"MAX_BODY_BYTES", "MAX_RECORDS", "QUEUE_ROWS", "RELOAD_SECONDS", "LOG_FORMAT"}
    assert {f"ANOMALY_{name}" for name in named} <= rows.keys()


LINKS = {
    "ANOMALY_PORT": "tcp://10.0.0.1:8000",
    "ANOMALY_SERVICE_HOST": "10.0.0.1",
    "ANOMALY_SERVICE_PORT": "8000",
    "ANOMALY_SERVICE_PORT_HTTP": "8000",
    "ANOMALY_PORT_8000_TCP": "tcp://10.0.0.1:8000",
    "ANOMALY_PORT_8000_TCP_PROTO": "tcp",
    "ANOMALY_PORT_8000_TCP_PORT": "8000",
    "ANOMALY_PORT_8000_TCP_ADDR": "fd00::1",
    "ANOMALY_CANARY_PORT": "tcp://10.0.0.2:8000",
    "ANOMALY_CANARY_SERVICE_HOST": "10.0.0.2",
}


def test_what_kubernetes_sets_for_a_service_of_this_name_is_ignored() -> None:
    assert Settings.read({**LINKS, "ANOMALY_WORKERS": "2"}) == Settings(workers=2)
    assert service_links({**LINKS, "ANOMALY_WORKERS": "2"}) == LINKS.keys()


@pytest.mark.parametrize("setting", ["METRICS_NEED_KEY", "DOCS_NEED_KEY"])
def test_a_key_that_is_asked_for_must_be_there(setting: str) -> None:
    asked = {f"ANOMALY_{setting}": "true"}
    with pytest.raises(SettingsError, match=f"ANOMALY_{setting} needs ANOMALY_API_KEYS"):
        Settings.read({**asked, "ANOMALY_ADMIN_KEYS": "root"})
    for there in ({"ANOMALY_API_KEYS": "one"}, {"ANOMALY_API_KEYS_FILE": "keys"}):
        assert getattr(Settings.read({**asked, **there}), setting.lower())


def test_room_for_bodies_is_at_least_that_of_one() -> None:
    with pytest.raises(SettingsError, match="ANOMALY_HELD_BYTES must be at least ANOMALY_MAX_BODY_BYTES, which is 16777216"):
        Settings.read({"ANOMALY_HELD_BYTES": "16777215"})
    assert Settings.read({"ANOMALY_HELD_BYTES": "16777216"}).held_bytes == 16 << 20
    assert Settings.read({"ANOMALY_MAX_BODY_BYTES": str(1 << 30)}).max_body_bytes == 1 << 30  # the room grows with it


@pytest.mark.parametrize("name", ["HEAD_SECONDS", "REQUEST_SECONDS", "IDLE_SECONDS"])
def test_no_time_at_all_is_no_time_limit(name: str) -> None:
    with pytest.raises(SettingsError, match=f"ANOMALY_{name} must be"):
        Settings.read({f"ANOMALY_{name}": "0"})


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "tcp:8000"), ("SERVICE_HOST", "http://x"), ("SERVICE", "10.0.0.1"), ("PORTS", "tcp://10.0.0.1:1")],
)
def test_what_only_looks_like_it_is_not(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"ANOMALY_{name}"):
        Settings.read({f"ANOMALY_{name}": value})
