"""Who may do what."""

import asyncio
import hmac
import time
from contextlib import suppress
from pathlib import Path

import pytest

from service.auth import Keys
from service.errors import Problem
from service.settings import Settings, SettingsError
from tests.service.client import check_problem, until
from tests.service.conftest import Serve
from tests.service.test_heads import head_of
from tests.service.tiny_bundle import GOOD

BODY = {"records": [GOOD]}
KEYED = [("POST", "/score"), ("POST", "/models/tiny/score"), ("GET", "/models"), ("GET", "/models/tiny")]
WRONG = [
    {},
    {"x-api-key": "wrong"},
    {"x-api-key": ""},
    {"x-api-key": "key-one,key-two"},
    {"authorization": "Bearer wrong"},
    {"authorization": "Bearer"},
    {"authorization": "Basic key-one"},
    {"authorization": "key-one"},
    {"authorization": "Bearer wrong", "x-api-key": "key-one"},
]
RIGHT = [
    {"x-api-key": "key-one"},
    {"x-api-key": "key-two"},
    {"authorization": "Bearer key-one"},
    {"authorization": "bearer  key-two "},
    {"x-api-key": "root"},
]


@pytest.mark.parametrize(("method", "path"), KEYED)
def test_scoring_and_reading_need_a_key_where_there_are_keys(serve: Serve, method: str, path: str) -> None:
    client = serve(api_keys=("key-one", "key-two"), admin_keys=("root",))
    for headers in WRONG:
        answer = client.request(method, path, json=BODY, headers=headers)
        check_problem(answer, 401, "unauthorized")
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert "key-one" not in answer.text
    for headers in RIGHT:
        assert client.request(method, path, json=BODY, headers=headers).status_code == 200


def test_a_scheme_that_is_none_of_ours_hides_no_other_key(serve: Serve) -> None:
    """A proxy that asks for a password of its own may pass it on."""
    client = serve(api_keys=("key",))
    assert client.get("/models", headers={"authorization": "Basic a2V5", "x-api-key": "key"}).status_code == 200
    for wrong in ({"authorization": "Basic a2V5"}, {"authorization": "Bearer no", "x-api-key": "key"}):
        check_problem(client.get("/models", headers=wrong), 401, "unauthorized")


def test_no_key_is_needed_where_none_is_set(serve: Serve, capfd: pytest.CaptureFixture[str]) -> None:
    client = serve()
    assert client.post("/score", json=BODY).status_code == 200
    assert capfd.readouterr().err.count("no API key is set") == 1


def test_health_never_needs_a_key_and_documents_only_if_asked(serve: Serve) -> None:
    client = serve(api_keys=("key",))
    for path in ("/health", "/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 200
    client = serve(api_keys=("key",), metrics_need_key=True, docs_need_key=True)
    check_problem(client.get("/docs"), 401, "unauthorized")
    assert client.app.metrics.requests["/docs", "GET", 401] == 1
    for path in ("/metrics", "/docs", "/openapi.json"):
        check_problem(client.get(path), 401, "unauthorized")
        assert client.get(path, headers={"x-api-key": "key"}).status_code == 200


def test_reload_is_for_admin_keys(serve: Serve) -> None:
    client, path = serve(api_keys=("key",), admin_keys=("root",)), "/models/tiny/reload"
    check_problem(client.post(path), 401, "unauthorized")
    check_problem(client.post(path, headers={"x-api-key": "wrong"}), 401, "unauthorized")
    check_problem(client.post(path, headers={"x-api-key": "key"}), 403, "forbidden")
    assert client.post(path, headers={"authorization": "Bearer root"}).status_code == 200
    check_problem(client.post("/models/other/reload", headers={"x-api-key": "root"}), 404, "model_not_found")


def test_without_an_admin_key_reload_is_off_and_says_why(serve: Serve) -> None:
    document = check_problem(serve().post("/models/tiny/reload", headers={"x-api-key": ""}), 403, "admin_disabled")
    assert "ANOMALY_ADMIN_KEYS" in document["detail"]


def test_keys_may_come_from_files(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# of team x, 2026\none\n two,three\n\n  # four\n", encoding="utf-8-sig")
    keys = Keys(Settings(api_keys_file=tmp_path / "keys", admin_keys_file=tmp_path / "keys"))
    for key in (b"one", b"two", b"three"):
        keys.check_api({b"x-api-key": key})
        keys.check_admin({b"x-api-key": key})
    for key in (b"#", b"of", b"2026", b"# four", b"four"):
        with pytest.raises(Problem, match="Send a valid key"):
            keys.check_api({b"x-api-key": key})
    (tmp_path / "blank").write_text("one two\n")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "hash").write_text("one,#two\n")
    (tmp_path / "no text").write_bytes(b"\xff\xfe")
    for name, told in (
        ("empty", ""),
        ("missing", ": the file of keys cannot be read: No such file or directory"),
        (".", ": the file of keys cannot be read: Is a directory"),
        ("blank", ": a key has a blank in it"),
        ("hash", ": a key begins with '#'"),
        ("no text", ": the file of keys cannot be read: it is not text in UTF-8"),
    ):
        with pytest.raises(SettingsError, match=f"{name}{told}"):
            Keys(Settings(api_keys_file=tmp_path / name))


def test_every_key_takes_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, compared = Keys(Settings(api_keys=("one", "two", "three"), admin_keys=("root",))), list[tuple[int, int]]()
    real = hmac.compare_digest

    def noted(a: bytes, b: bytes) -> bool:
        compared.append((len(a), len(b)))
        return real(a, b)

    monkeypatch.setattr(hmac, "compare_digest", noted)
    for key in (b"one", b"three", b"root", b"", b"o", b"x" * 10_000):
        with suppress(Problem):
            keys.check_api({b"x-api-key": key})
    assert compared == [(32, 32)] * 4 * 6


def test_a_file_of_keys_is_read_again(serve: Serve, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    api, admin = tmp_path / "api", tmp_path / "admin"
    api.write_text("old\n")
    admin.write_text("root\n")
    client = serve(api_keys_file=api, admin_keys_file=admin, reload_seconds=0.01)

    def accepted() -> set[str]:
        client.run(asyncio.sleep(0.01))
        return {key for key in ("old", "new", "root") if client.get("/models", headers={"x-api-key": key}).status_code == 200}

    def comes_to(keys: set[str]) -> bool:
        end = time.monotonic() + 20
        while (found := accepted()) != keys and time.monotonic() < end:
            pass
        return found == keys

    assert comes_to({"old", "root"})
    for text, keys in (("old\nnew\n", {"old", "new", "root"}), ("new\n", {"new", "root"})):
        (tmp_path / "next").write_text(text)
        (tmp_path / "next").rename(api)
        assert comes_to(keys)
    log = ""
    for spoil in (lambda: api.write_text(""), api.unlink):  # never opens the service, nor locks its clients out
        spoil()
        end = time.monotonic() + 20
        while log.count("those of before hold") < 1 and time.monotonic() < end:
            assert accepted() == {"new", "root"}
            log += capfd.readouterr().err
        assert "those of before hold" in log
        log = ""
    api.write_text("old")
    assert comes_to({"old", "root"})


def test_without_polling_a_file_of_keys_is_read_once(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("old")
    client = serve(api_keys_file=tmp_path / "keys")
    (tmp_path / "keys").write_text("new")
    client.run(asyncio.sleep(0.05))
    assert client.get("/models", headers={"x-api-key": "old"}).status_code == 200


def test_an_admin_key_is_replaced_too_where_there_is_no_other_file(serve: Serve, tmp_path: Path) -> None:
    admin, path = tmp_path / "admin", "/models/tiny/reload"
    admin.write_text("old")
    client = serve(api_keys=("key",), admin_keys_file=admin, reload_seconds=0.01)
    assert client.post(path, headers={"x-api-key": "old"}).status_code == 200
    admin.write_text("new")
    end = time.monotonic() + 20
    while client.post(path, headers={"x-api-key": "new"}).status_code != 200:
        assert time.monotonic() < end
        client.run(asyncio.sleep(0.01))
    check_problem(client.post(path, headers={"x-api-key": "old"}), 401, "unauthorized")
    check_problem(client.get("/models", headers={"x-api-key": "old"}), 401, "unauthorized")


def test_a_file_that_is_gone_is_told_once_each_time_and_new_keys_are_taken_up(
    serve: Serve, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path, sent = tmp_path / "keys", b"POST /score HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"
    path.write_text("one")
    client, log = serve(api_keys_file=path, reload_seconds=0.002), list[str]()

    def told() -> int:
        log.append(capfd.readouterr().err)
        return "".join(log).count("keys not read again")

    for times in (1, 2):
        client.app.heads.keep(sent, head_of(b"{}"))
        path.unlink()
        client.run(until(lambda times=times: told() >= times))
        client.run(asyncio.sleep(0.05))  # in which it is looked for again
        before = client.app.keys._api
        (tmp_path / "next").write_text(f"key-{times}")
        (tmp_path / "next").rename(path)
        client.run(until(lambda before=before: client.app.keys._api != before))
        assert client.app.heads.find(sent) is None  # of other keys
    assert told() == 2
