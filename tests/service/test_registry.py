"""Models come, change and go wrong, and the service goes on."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from service import promotion
from service.__main__ import main
from service.bundle import closed_folders, current_version, list_versions
from service.errors import Problem
from service.manifest import CURRENT, BundleError
from service.metrics import Metrics
from service.registry import Registry
from service.settings import Settings
from tests.service import gpu
from tests.service.client import check_problem, until
from tests.service.conftest import Serve
from tests.service.tiny_bundle import GOOD, NUMBERS, point, publish

OLD, NEW = "20260101T000000Z-made01", "20260102T000000Z-made02"
BODY = {"records": [GOOD]}
ADMIN = {"x-api-key": "root"}


@pytest.fixture
def admin(serve: Serve, models_dir: Path) -> Any:
    return serve(models_dir=models_dir, admin_keys=("root",))


def reload(client: Any, name: str = "tiny") -> Any:
    return client.post(f"/models/{name}/reload", headers=ADMIN)


def test_a_reload_takes_up_a_new_version(admin: Any, models_dir: Path) -> None:
    before = admin.score(BODY)
    publish(models_dir, version=NEW, scale=2.0)
    assert admin.score(BODY)["version"] == OLD
    assert reload(admin).json() == {"name": "tiny", "version": NEW}
    after = admin.score(BODY)
    assert after["version"] == NEW
    assert after["results"][0]["score"] == pytest.approx(2 * before["results"][0]["score"])
    assert admin.score(BODY, f"/models/tiny/versions/{OLD}/score") == before
    assert admin.get("/models/tiny").json()["versions"] == [OLD, NEW]


def test_a_reload_of_what_is_gone_is_refused_with_the_reason_while_it_is_served(admin: Any, models_dir: Path) -> None:
    (models_dir / "tiny" / CURRENT).unlink()
    assert "there is no" in check_problem(reload(admin), 409, "bundle_refused")["detail"]
    assert admin.score(BODY)["version"] == OLD
    check_problem(reload(admin, "other"), 404, "model_not_found")


def test_polling_takes_up_a_new_version(serve: Serve, models_dir: Path) -> None:
    client = serve(models_dir=models_dir, reload_seconds=0.01)
    publish(models_dir, version=NEW)

    client.run(until(lambda: client.app.registry.default().version == NEW))
    assert client.score(BODY)["version"] == NEW


def test_a_running_service_follows_the_commands(serve: Serve, models_dir: Path) -> None:
    publish(models_dir, version=NEW)
    client = serve(models_dir=models_dir, reload_seconds=0.01)
    assert client.score(BODY)["version"] == NEW
    for command, version in ((["rollback", "tiny"], OLD), (["promote", "tiny", NEW], NEW)):
        assert main([*command, "--models-dir", str(models_dir)]) == 0
        client.run(until(lambda version=version: client.app.registry.default().version == version))
        assert client.score(BODY)["version"] == version


def test_a_model_published_later_makes_the_service_ready(serve: Serve, tmp_path: Path) -> None:
    client = serve(models_dir=tmp_path / "later")
    assert client.get("/health").status_code == 503
    publish(tmp_path / "later")
    client.run(client.app.registry.refresh())
    assert client.score(BODY)["version"] == OLD


def damage(folder: Path, file: str) -> None:
    content = bytearray((folder / file).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / file).write_bytes(content)


@pytest.mark.parametrize("file", ["scorer.onnx", "encoder.onnx", "report.html", "manifest.json"])
def test_a_damaged_bundle_is_refused_and_the_old_one_serves_on(admin: Any, models_dir: Path, file: str) -> None:
    before = admin.score(BODY)
    folder = publish(models_dir, version=NEW)
    if file == "manifest.json":
        (folder / file).write_bytes((folder / file).read_bytes()[:-100])
    else:
        damage(folder, file)
    document = check_problem(reload(admin), 409, "bundle_refused")
    assert file in document["detail"]
    assert admin.score(BODY) == before
    assert admin.get("/health").json()["refused"] == ["tiny"]
    text = admin.get("/metrics").text
    assert 'anomaly_reloads_total{model="tiny",result="refused"} 1.0' in text
    assert 'anomaly_refusals_total{model="tiny",stage="files"} 1.0' in text
    check_problem(admin.post(f"/models/tiny/versions/{NEW}/score", json=BODY), 503, "not_ready")


@pytest.mark.parametrize(("what", "stage"), [("service.live.trial.attempt", "trial"), ("service.live.Detector", "proof")])
@pytest.mark.parametrize("error", [BundleError("it is none"), RuntimeError("it is none")])
def test_a_refusal_is_counted_by_how_far_the_bundle_came(
    serve: Serve, models_dir: Path, monkeypatch: pytest.MonkeyPatch, what: str, stage: str, error: Exception
) -> None:
    admin = serve(models_dir=models_dir, admin_keys=("root",), trial_seconds=20.0 if stage == "trial" else 0.0)

    def refuse(*_: object) -> None:
        raise error

    publish(models_dir, version=NEW)
    monkeypatch.setattr(what, refuse)
    check_problem(reload(admin), 409, "bundle_refused")
    assert f'anomaly_refusals_total{{model="tiny",stage="{stage}"}} 1.0' in admin.get("/metrics").text
    assert admin.score(BODY)["version"] == OLD


def test_a_pinned_version_that_cannot_be_used_is_read_once_and_is_no_failed_update(admin: Any, models_dir: Path) -> None:
    folder = publish(models_dir, version=NEW)
    point(models_dir, "tiny", OLD)
    damage(folder, "scorer.onnx")
    path = f"/models/tiny/versions/{NEW}/score"
    for _ in range(3):
        check_problem(admin.post(path, json=BODY), 503, "not_ready")
    text = admin.get("/metrics").text
    assert 'anomaly_refusals_total{model="tiny",stage="files"} 1.0' in text
    assert 'anomaly_reloads_total{model="tiny",result="refused"} 0.0' in text
    assert 'anomaly_bundle_refused{model="tiny"} 0.0' in text
    assert "anomaly_not_ready 0.0" in text
    damage(folder, "scorer.onnx")  # the same bit once more: it is whole
    assert admin.score(BODY, path)["version"] == NEW


def test_a_bundle_of_which_a_file_came_late_is_taken_up_when_it_is_there(admin: Any, models_dir: Path) -> None:
    """A copy that keeps the times of files, as rsync -a does, leaves CURRENT as it was."""
    folder = publish(models_dir, version=NEW)
    current, late = models_dir / "tiny" / CURRENT, models_dir.parent / "scorer.onnx"
    (folder / "scorer.onnx").rename(late)
    written = current.stat().st_mtime_ns
    for _ in range(2):
        admin.run(admin.app.registry.refresh())
    assert 'anomaly_bundle_refused{model="tiny"} 1.0' in admin.get("/metrics").text
    assert admin.app.metrics.reloads["tiny", "refused"] == 1
    shutil.copy2(late, folder / "scorer.onnx")
    assert current.stat().st_mtime_ns == written
    admin.run(admin.app.registry.refresh())
    assert admin.score(BODY)["version"] == NEW
    assert 'anomaly_bundle_refused{model="tiny"} 0.0' in admin.get("/metrics").text


def test_a_refused_version_is_not_tried_again_until_current_is_written_again(admin: Any, models_dir: Path) -> None:
    damage(publish(models_dir, version=NEW), "scorer.onnx")
    refresh = admin.app.registry.refresh
    for _ in range(3):
        admin.run(refresh())
    assert admin.app.metrics.reloads["tiny", "refused"] == 1
    point(models_dir, "tiny", OLD)
    admin.run(refresh())
    assert admin.get("/health").json()["refused"] == []


def test_a_bundle_of_another_model_is_refused(admin: Any, models_dir: Path, tmp_path: Path) -> None:
    other = publish(tmp_path / "other", "other", NEW)
    shutil.copytree(other, models_dir / "tiny" / NEW)
    point(models_dir, "tiny", NEW)
    assert "another model" in check_problem(reload(admin), 409, "bundle_refused")["detail"]


def test_a_current_that_leads_elsewhere_is_refused(admin: Any, models_dir: Path) -> None:
    for text in ("../../etc", "", "no-such-version", "a\nb"):
        (models_dir / "tiny" / "CURRENT").write_text(text)
        check_problem(reload(admin), 409, "bundle_refused")
    assert admin.score(BODY)["version"] == OLD


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (os.mkfifo, "is a pipe"),
        (lambda path: path.symlink_to("/dev/zero"), "is a device"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: path.write_text(OLD + "\n" * 300), "longer than 256 bytes"),
        (lambda path: path.write_bytes(b"\xff"), "the version in"),
    ],
)
def test_a_current_that_is_no_small_file_of_text_is_refused_and_holds_up_nobody(
    serve: Serve, models_dir: Path, make: Callable[[Path], None], found: str
) -> None:
    (models_dir / "odd").mkdir()
    make(models_dir / "odd" / CURRENT)
    admin = serve(models_dir=models_dir, admin_keys=("root",))
    assert found in check_problem(reload(admin, "odd"), 409, "bundle_refused")["detail"]
    publish(models_dir, version=NEW)
    assert reload(admin).json()["version"] == NEW
    assert admin.get("/health").json()["refused"] == ["odd"]


def test_a_current_that_is_a_link_to_one_is_followed(models_dir: Path) -> None:
    (models_dir / "tiny" / CURRENT).rename(models_dir / "elsewhere")
    (models_dir / "tiny" / CURRENT).symlink_to("../elsewhere")
    assert current_version(models_dir, "tiny") == OLD


def test_a_current_that_may_not_be_read_is_told_from_none(models_dir: Path) -> None:
    current = models_dir / "tiny" / CURRENT
    current.chmod(0)
    with as_nobody(), pytest.raises(BundleError, match="Permission denied"):
        current_version(models_dir, "tiny")
    current.unlink()
    with pytest.raises(BundleError, match="no model 'tiny' is published"):
        current_version(models_dir, "tiny")


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of root, if these are its tests."""
    before = os.geteuid()
    if not before:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


@pytest.mark.parametrize(("gone", "why"), [(True, "is not there"), (False, "cannot be read: Permission denied")])
def test_a_folder_that_cannot_be_read_any_more_is_told_once_and_what_is_served_goes_on(
    caplog: pytest.LogCaptureFixture, admin: Any, models_dir: Path, gone: bool, why: str
) -> None:
    models_dir.chmod(0o700)
    for _ in range(2):  # it is told again where it had been there in between
        if gone:
            models_dir.rename(models_dir.parent / "away")
        with nullcontext() if gone else as_nobody():
            for _ in range(3):
                admin.run(admin.app.registry.refresh())
                assert admin.score(BODY)["version"] == OLD
            check_problem(reload(admin), 409, "bundle_refused")
            check_problem(reload(admin, "none"), 404, "model_not_found")
        assert "anomaly_models_unreadable 1.0" in admin.get("/metrics").text
        (told,) = events(caplog, "looking for new versions failed")
        assert (told["level"], told["folder"], told["reason"]) == ("WARNING", str(models_dir), f"The folder of the models {why}.")
        if gone:
            (models_dir.parent / "away").rename(models_dir)
        admin.run(admin.app.registry.refresh())
        text = admin.get("/metrics").text
        assert "anomaly_models_unreadable 0.0" in text
        assert 'anomaly_bundle_refused{model="tiny"} 0.0' in text
    publish(models_dir, version=NEW)
    admin.run(admin.app.registry.refresh())
    assert admin.score(BODY)["version"] == NEW


def test_a_folder_that_cannot_be_read_at_the_start_is_the_reason_that_is_told(
    serve: Serve, models_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with as_nobody():
        client = serve(models_dir=models_dir)
    assert [client.get(f"/health/{probe}").status_code for probe in ("live", "ready")] == [200, 503]
    assert '"reason": "The folder of the models cannot be read: Permission denied."' in capfd.readouterr().err
    client.run(client.app.registry.refresh())
    assert client.score(BODY)["version"] == OLD


def test_a_model_whose_folder_may_not_be_looked_into_is_named(serve: Serve, capfd: pytest.CaptureFixture[str]) -> None:
    with tempfile.TemporaryDirectory() as place:  # pytest's own are of one user alone
        models = Path(place)
        models.chmod(0o755)
        publish(models)
        (models / "tiny").chmod(0 if os.geteuid() else 0o700)
        with as_nobody():
            assert closed_folders(models) == ["tiny"]
            serve(models_dir=models)
        (models / "tiny").chmod(0o700)
        assert "This user may not look into: tiny." in capfd.readouterr().err
        assert closed_folders(models) == []


def test_a_version_that_may_not_be_looked_into_is_none(models_dir: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        models = Path(place)
        models.chmod(0o755)
        publish(models)
        closed = models / "tiny" / NEW
        shutil.copytree(models / "tiny" / OLD, closed)
        assert list_versions(models, "tiny") == [OLD, NEW]
        closed.chmod(0 if os.geteuid() else 0o700)
        with as_nobody():
            assert list_versions(models, "tiny") == [OLD]
        closed.chmod(0o700)


def test_a_served_model_whose_current_is_gone_is_told_once_and_served_on(
    caplog: pytest.LogCaptureFixture, admin: Any, models_dir: Path
) -> None:
    for _ in range(2):
        (models_dir / "tiny" / CURRENT).unlink()
        for _ in range(2):
            admin.run(admin.app.registry.refresh())
        (told,) = events(caplog, "a served model is not published any more")
        assert (told["model"], told["version"]) == ("tiny", OLD)
        assert "there is no" in told["reason"]
        assert admin.score(BODY)["version"] == OLD
        point(models_dir, "tiny", OLD)
        admin.run(admin.app.registry.refresh())


def events(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, str]]:
    """What the log says of this, since the last look."""
    told = [{"level": record.levelname, **vars(record)["members"]} for record in caplog.records if record.message == event]
    caplog.clear()
    return told


def test_several_models_need_a_default(serve: Serve, tmp_path: Path) -> None:
    publish(tmp_path, "one")
    publish(tmp_path, "two", features=NUMBERS)
    client = serve(models_dir=tmp_path)
    assert "ANOMALY_MODEL" in check_problem(client.post("/score", json=BODY), 404, "no_default_model")["detail"]
    assert client.score({"records": [{"f0": 1}]}, "/models/two/score")["model"] == "two"
    chosen = serve(models_dir=tmp_path, model="one")
    assert chosen.score(BODY)["model"] == "one"
    assert [(m["name"], m["default"]) for m in chosen.get("/models").json()["models"]] == [("one", True), ("two", False)]
    missing = serve(models_dir=tmp_path, model="three")
    check_problem(missing.post("/score", json=BODY), 503, "not_ready")


def test_a_refused_model_leaves_no_default_as_a_good_one_would(serve: Serve, tmp_path: Path) -> None:
    publish(tmp_path, "one")
    damage(publish(tmp_path, "two"), "scorer.onnx")
    client = serve(models_dir=tmp_path)
    assert "2 models" in check_problem(client.post("/score", json=BODY), 404, "no_default_model")["detail"]
    assert [model["default"] for model in client.get("/models").json()["models"]] == [False, False]
    health = client.get("/health").raise_for_status().json()
    assert (health["model"], health["models"], health["refused"]) == (None, {"one": OLD}, ["two"])
    publish(tmp_path, "one", NEW)
    damage(tmp_path / "one" / NEW, "scorer.onnx")  # a newer version of one: it is still the one that serves
    shutil.rmtree(tmp_path / "two")
    client.run(client.app.registry.refresh())
    assert client.score(BODY)["model"] == "one"
    assert client.app.registry.refused_names() == ["one"]


def test_where_all_are_refused_the_service_is_not_ready(serve: Serve, tmp_path: Path) -> None:
    for name in ("one", "two"):
        damage(publish(tmp_path, name), "scorer.onnx")
    document = check_problem(serve(models_dir=tmp_path).post("/score", json=BODY), 503, "not_ready")
    assert "Refused: one, two" in document["detail"]


def test_few_versions_stay_loaded(serve: Serve, models_dir: Path) -> None:
    versions = [f"2026010{day}T000000Z-made01" for day in range(2, 7)]
    for version in versions:
        publish(models_dir, version=version, current=False)
    client = serve(models_dir=models_dir, cached_versions=2)
    for version in [*versions, versions[0]]:
        assert client.score(BODY, f"/models/tiny/versions/{version}/score")["version"] == version
    assert len(client.app.metrics.models) == 3


def test_the_versions_that_stay_loaded_are_those_asked_for_last(serve: Serve, models_dir: Path) -> None:
    first, second, third = versions = [f"2026010{day}T000000Z-made01" for day in range(2, 5)]
    for version in versions:
        publish(models_dir, version=version, current=False)
    client = serve(models_dir=models_dir, cached_versions=2)
    for version in (first, second, first, third):
        client.score(BODY, f"/models/tiny/versions/{version}/score")
    assert [live.version for live in client.app.registry.loaded()] == [OLD, first, third]


def test_a_version_that_is_asked_for_while_it_becomes_the_served_one_is_loaded_once(admin: Any, models_dir: Path) -> None:
    publish(models_dir, version=NEW)
    registry = admin.app.registry

    async def both() -> Any:
        _, asked = await asyncio.gather(registry.reload("tiny"), registry.get_version("tiny", NEW))
        return asked

    assert admin.run(both()) is registry.default()
    assert len(registry.loaded()) == 1


@pytest.mark.parametrize(
    ("name", "version", "code"),
    [("..", "elsewhere", "model_not_found"), (".", "tiny", "model_not_found"), ("tiny", "..", "version_not_found")],
)
def test_a_name_leads_nowhere_else(serve: Serve, models_dir: Path, name: str, version: str, code: str) -> None:
    shutil.copytree(models_dir / "tiny" / OLD, models_dir.parent / "elsewhere")
    client = serve(models_dir=models_dir)
    with pytest.raises(Problem) as told:
        client.run(client.app.registry.get_version(name, version))
    assert told.value.code == code
    assert not client.app.metrics.refusals


@gpu.absent
def test_a_service_that_asks_for_a_gpu_in_vain_does_not_start(bundle_dir: Path) -> None:
    with pytest.raises(BundleError, match="provider cuda"):
        asyncio.run(Registry(Settings(models_dir=bundle_dir, provider="cuda"), Metrics()).start())


def test_a_request_under_way_keeps_its_version(admin: Any, models_dir: Path) -> None:
    live = admin.app.registry.default()
    publish(models_dir, version=NEW, scale=2.0)
    reload(admin)
    answer = live.detector.score(live.reader.read(b'{"records":[{}]}').x)
    assert float(answer.score[0]) == 4.0


def test_promote_and_rollback(models_dir: Path) -> None:
    publish(models_dir, version=NEW)
    assert promotion.rollback(models_dir, "tiny") == OLD
    assert current_version(models_dir, "tiny") == OLD
    promotion.promote(models_dir, "tiny", NEW)
    assert current_version(models_dir, "tiny") == NEW
    promotion.rollback(models_dir, "tiny")
    for call in (
        lambda: promotion.rollback(models_dir, "tiny"),
        lambda: promotion.promote(models_dir, "tiny", "20260103T000000Z-made03"),
        lambda: promotion.promote(models_dir, "tiny", "../tiny"),
    ):
        with pytest.raises(BundleError):
            call()
    damage(models_dir / "tiny" / NEW, "scorer.onnx")
    with pytest.raises(BundleError, match="not the bytes"):
        promotion.promote(models_dir, "tiny", NEW)
    assert current_version(models_dir, "tiny") == OLD
    assert [path.name for path in (models_dir / "tiny").glob(".*")] == []
