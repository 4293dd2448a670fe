"""What deploy/ says fits the service: settings, metrics, paths and ports exist, and each file is valid to those who read it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from service.metrics import Metrics
from service.settings import Settings, variable
from tests.test_docs import rows, section

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file())
OTHERS = {"kustomization.yaml", "podmonitor.yaml"}  # of kinds that not every cluster knows
MANIFESTS = sorted(path for path in DEPLOY.glob("kubernetes/*.yaml") if path.name not in OTHERS)
POD = ("automountServiceAccountToken", "enableServiceLinks")  # of KServe's predictor, what is a pod's
SUFFIXES = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "gauge": [""]}


def load(path: str) -> Any:
    return yaml.safe_load((DEPLOY / path).read_text())


def rules() -> list[dict[str, Any]]:
    return [rule for group in load("prometheus/alerts.yml")["groups"] for rule in group["rules"]]


def expressions() -> list[str]:
    """Every PromQL expression of the alerts, the dashboard, the autoscaler and docs/operations.md."""
    dashboard = json.loads((DEPLOY / "grafana/dashboards/anomaly.json").read_text())
    panels = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    variables = [one["query"]["query"] for one in dashboard["templating"]["list"] if isinstance(one["query"], dict)]
    scaled = [metric["pods"]["metric"]["name"] for metric in load("kubernetes/hpa.yaml")["spec"]["metrics"] if "pods" in metric]
    asked = re.findall(r"`([^`]*anomaly_[^`]*)`", section("docs/operations.md", "Metrics"))
    return (
        [rule["expr"] for rule in rules()] + panels + variables + scaled + [text for text in asked if "(" in text or "{" in text]
    )


def test_every_metric_and_label_that_is_asked_for_exists() -> None:
    known = {
        family.name + suffix: {*family._labelnames, *(["le"] if family.type == "histogram" else []), "instance", "job"}
        for family in Metrics().collect()
        for suffix in SUFFIXES[family.type]
    }
    asked = expressions()
    assert len(asked) > 30
    for expression in asked:
        found = re.findall(r"\b(anomaly_\w+)(?:{([^}]*)})?", expression)
        assert found or "up{" in expression
        for name, matchers in found:
            assert name in known, expression
            labels = set(re.findall(r"(\w+)\s*(?:=~|!=|=)", matchers))
            assert labels <= known[name], expression


def test_every_family_is_on_the_dashboard() -> None:
    panels = (DEPLOY / "grafana/dashboards/anomaly.json").read_text()
    assert [family.name for family in Metrics().collect() if family.name not in panels] == []


def test_every_alert_is_in_the_runbook_and_told_in_words() -> None:
    told = {row[0] for row in rows(section("docs/operations.md", "Runbook"))}
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names)) > 10
    assert set(names) - told == set()
    assert {name for name in told if re.fullmatch("Anomaly[A-Z]\\w+", name)} == set(names)
    assert all(rule["annotations"]["summary"] and rule["labels"]["severity"] in ("page", "ticket") for rule in rules())


@pytest.mark.parametrize(
    "arguments", [("check", "config", "prometheus.yml"), ("test", "rules", "alerts.test.yml")], ids=["config", "rules"]
)
def test_promtool_is_content(arguments: tuple[str, ...]) -> None:
    promtool(*arguments)


def test_promtool_is_content_with_the_scraping_of_pods(tmp_path: Path) -> None:
    """But for their discovery, without which Debian builds it."""
    config = load("prometheus/kubernetes.yml")
    assert all(scraped.pop("kubernetes_sd_configs") for scraped in config["scrape_configs"])
    (tmp_path / "kubernetes.yml").write_text(yaml.safe_dump(config))
    promtool("check", "config", str(tmp_path / "kubernetes.yml"))


def promtool(*arguments: str) -> None:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("no promtool on this machine: apt-get install prometheus")
    done = subprocess.run([found, *arguments], cwd=DEPLOY / "prometheus", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_settings_that_are_set_are_settings(path: Path) -> None:
    known = {variable(setting) for setting in fields(Settings)}
    text = re.sub(r"\$\{ANOMALY_\w+", "", path.read_text())
    assert set(re.findall(r"\bANOMALY_[A-Z_]+\b", text)) - known == set()


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_kubernetes_manifests_fit_their_schemas(path: Path) -> None:
    for manifest in yaml.safe_load_all(path.read_text()):
        kubernetes_validate.validate(manifest, "1.34", strict=True)


def test_the_egress_rules_for_tracing_fit_their_schema() -> None:
    lines = (DEPLOY / "kubernetes/networkpolicy.yaml").read_text().partition("  egress: []\n")
    policy = yaml.safe_load(lines[0] + "".join(f"  {line[4:]}\n" for line in lines[2].splitlines()[1:]))
    assert {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]} == {53, 4318}
    kubernetes_validate.validate(policy, "1.34", strict=True)


def test_the_kustomization_names_every_manifest() -> None:
    assert set(load("kubernetes/kustomization.yaml")["resources"]) == {path.name for path in MANIFESTS}


def test_pods_run_without_rights_and_are_asked_where_the_service_answers() -> None:
    pod = load("kubernetes/deployment.yaml")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    predictor = load("kserve/inferenceservice.yaml")["spec"]["predictor"]
    for one in (pod, predictor):
        assert one["automountServiceAccountToken"] is one["enableServiceLinks"] is False
    (kserve,) = predictor["containers"]
    user = int(re.findall(r"^USER (\d+):", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[0])
    assert pod["securityContext"]["runAsUser"] == kserve["securityContext"]["runAsUser"] == user
    for name in ("runAsNonRoot", "runAsGroup", "seccompProfile"):  # of the container: Knative lets no pod have them
        assert kserve["securityContext"][name] == pod["securityContext"][name]
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert {**kserve[name], "httpGet": {**kserve[name]["httpGet"], "port": "http"}} == container[name]
    for one in (container, kserve):
        assert one["securityContext"]["readOnlyRootFilesystem"] is True
        assert one["securityContext"]["allowPrivilegeEscalation"] is False
        assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert one["readinessProbe"]["httpGet"]["path"] == "/health/ready"
        assert one["livenessProbe"]["httpGet"]["path"] == "/health/live"
        assert one["ports"][0]["containerPort"] == 8000
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    wait = container["lifecycle"]["preStop"]["sleep"]["seconds"] + int(environment["ANOMALY_SHUTDOWN_SECONDS"])
    assert pod["terminationGracePeriodSeconds"] > wait
    assert set(environment) >= {"ANOMALY_API_KEYS_FILE"}


def test_selectors_find_the_pods() -> None:
    labels = load("kubernetes/deployment.yaml")["spec"]["template"]["metadata"]["labels"]
    for path, selector in (
        ("kubernetes/deployment.yaml", ("selector", "matchLabels")),
        ("kubernetes/service.yaml", ("selector",)),
        ("kubernetes/pdb.yaml", ("selector", "matchLabels")),
        ("kubernetes/networkpolicy.yaml", ("podSelector", "matchLabels")),
    ):
        found = load(path)["spec"]
        for key in selector:
            found = found[key]
        assert found.items() <= labels.items(), path
    assert load("kubernetes/hpa.yaml")["spec"]["scaleTargetRef"]["name"] == load("kubernetes/deployment.yaml")["metadata"]["name"]


def test_every_way_to_scrape_pods_finds_them_and_gives_the_job_that_the_rules_ask_for() -> None:
    assert [rule["alert"] for rule in rules() if re.search(r'\b(up|anomaly_\w+)\b(?!{job="anomaly"|")', rule["expr"])] == []
    template = load("kubernetes/deployment.yaml")["spec"]["template"]
    labels, ((port,),) = template["metadata"]["labels"], [one["ports"] for one in template["spec"]["containers"]]
    assert not any("prometheus.io" in name for name in template["metadata"].get("annotations", {}))  # would give another job
    (scraped,) = load("prometheus/kubernetes.yml")["scrape_configs"]
    (discovery,) = scraped["kubernetes_sd_configs"]
    kept = [one["regex"] for one in scraped["relabel_configs"] if one.get("action") == "keep"]
    assert (scraped["job_name"], kept) == ("anomaly", [port["name"]])
    assert [one["label"] for one in discovery["selectors"]] == [f"app={labels['app']}"]
    monitor = load("kubernetes/podmonitor.yaml")["spec"]
    assert (labels[monitor["jobLabel"]], monitor["selector"]["matchLabels"]) == ("anomaly", labels)
    assert [one["port"] for one in monitor["podMetricsEndpoints"]] == [port["name"]]


def test_kserve_containers_are_those_of_a_pod() -> None:
    service = load("kserve/inferenceservice.yaml")
    assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "a"},
        "spec": {key: service["spec"]["predictor"][key] for key in ("containers", "volumes", *POD)},
    }
    kubernetes_validate.validate(pod, "1.34", strict=True)


def test_kserve_replicas_follow_a_volume_and_ask_for_keys() -> None:
    predictor = load("kserve/inferenceservice.yaml")["spec"]["predictor"]
    (container,) = predictor["containers"]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    assert environment["STORAGE_URI"].startswith("pvc://")
    assert int(environment["ANOMALY_SHUTDOWN_SECONDS"]) < min(30, predictor["timeout"])
    assert "terminationGracePeriodSeconds" not in predictor  # which Knative refuses
    assert "ANOMALY_RELOAD_SECONDS" not in environment  # a volume changes: siblings of before and after must follow it alike
    (mount,), (volume,) = container["volumeMounts"], predictor["volumes"]
    assert Path(environment["ANOMALY_API_KEYS_FILE"]).parent == Path(mount["mountPath"])
    assert volume["name"] == mount["name"]
    assert volume["secret"] == load("kubernetes/deployment.yaml")["spec"]["template"]["spec"]["volumes"][1]["secret"]


def test_compose_mounts_what_there_is() -> None:
    compose = load("compose.yaml")
    targets = set(re.findall(r"^FROM \S+ AS (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    for service in compose["services"].values():
        assert service.get("build", {}).get("target", "cpu") in targets
        for mount in service["volumes"]:
            source = mount.split(":")[0]
            assert source in compose["volumes"] or (DEPLOY / source).exists(), mount
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    (scrape,) = load("prometheus/prometheus.yml")["scrape_configs"]
    assert scrape["static_configs"][0]["targets"] == ["anomaly:8000"]
    (source,) = load("grafana/provisioning/datasources/prometheus.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = load("grafana/provisioning/dashboards/anomaly.yml")["providers"]
    mounts = dict(mount.split(":")[:2] for mount in compose["services"]["grafana"]["volumes"])
    assert mounts["./grafana/dashboards"] == provider["options"]["path"]


def test_the_systemd_unit_is_one(tmp_path: Path) -> None:
    unit = (DEPLOY / "systemd/anomaly.service").read_text()
    assert "-m service serve" in unit
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd-analyze on this machine")
    there = tmp_path / "anomaly.service"
    there.write_text(unit.replace("/opt/anomaly/bin/python", "/bin/true"))
    done = subprocess.run([analyze, "verify", str(there)], capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if str(there) in line or "anomaly.service" in line]
    assert said == [], done.stderr
