"""The manifests: held to the schemas of Kubernetes, and to what the program really does."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from dispatcher.config import load

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
KINDS = ("base", "aws-irsa", "aliyun-rrsa")
FILES = sorted(path for path in FOLDER.rglob("*.yaml") if path.name != "kustomization.yaml")
#: Resources of operators, whose schemas are not Kubernetes' own.
OF_OTHERS = {"PodMonitor"}


def manifest(name: str) -> dict[str, Any]:
    found = yaml.safe_load((FOLDER / "base" / f"{name}.yaml").read_text())
    assert isinstance(found, dict)
    return found


def sidecar() -> dict[str, Any]:
    (found,) = manifest("statefulset")["spec"]["template"]["spec"]["initContainers"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_is_what_kubernetes_takes(path):
    found = yaml.safe_load(path.read_text())
    if found["kind"] not in OF_OTHERS:
        kubernetes_validate.validate(found, "1.34", strict=True)


def test_the_check_would_notice_a_typing_error():
    wrong = manifest("statefulset")
    wrong["spec"]["template"]["spec"]["initContainers"][0]["restartPolcy"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.34", strict=True)


def test_what_is_listed_exists_and_nothing_else():
    listed = yaml.safe_load((FOLDER / "base" / "kustomization.yaml").read_text())["resources"]
    assert {FOLDER / "base" / name for name in listed} == set(FILES)


@pytest.mark.parametrize("kind", KINDS)
def test_kustomize_puts_it_together(kind):
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run(
        ["kubectl", "kustomize", FOLDER / kind], capture_output=True, text=True, check=True
    )
    found = {one["kind"]: one for one in yaml.safe_load_all(done.stdout)}
    for name, one in found.items():
        if name not in OF_OTHERS:
            kubernetes_validate.validate(one, "1.34", strict=True)
    annotations = found["ServiceAccount"]["metadata"].get("annotations", {})
    assert {key.partition("/")[0] for key in annotations} == {
        "base": set(),
        "aws-irsa": {"eks.amazonaws.com"},
        "aliyun-rrsa": {"pod-identity.alibabacloud.com"},
    }[kind]
    volumes = found["StatefulSet"]["spec"]["template"]["spec"]["volumes"]
    # The name carries a hash of the content, so that a change of it starts new pods.
    assert volumes[0]["configMap"]["name"] == found["ConfigMap"]["metadata"]["name"]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*/dispatcher.toml")), ids=str)
def test_its_configurations_are_good_and_fit_the_manifests(path):
    settings = load(path)
    pod = manifest("statefulset")["spec"]["template"]["spec"]
    assert settings.server.drain_max_s < pod["terminationGracePeriodSeconds"] - 10
    assert settings.metrics.listen == f"0.0.0.0:{sidecar()['ports'][0]['containerPort']}"
    # Nobody outside the pod reaches the API.
    assert settings.server.listen == ("127.0.0.1:8700",)
    folders = {mount["name"]: mount["mountPath"] for mount in sidecar()["volumeMounts"]}
    assert settings.journal.url.removeprefix("sqlite://").startswith(f"{folders['journal']}/")


def test_it_is_a_native_sidecar_with_probes_at_the_metrics_port():
    assert sidecar()["restartPolicy"] == "Always"
    probes = {name: sidecar()[name]["httpGet"] for name in sidecar() if name.endswith("Probe")}
    assert probes == {
        "startupProbe": {"path": "/readyz", "port": "metrics"},
        "livenessProbe": {"path": "/healthz", "port": "metrics"},
        "readinessProbe": {"path": "/readyz", "port": "metrics"},
    }


def test_containers_have_no_rights():
    pod = manifest("statefulset")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in (*pod["initContainers"], *pod["containers"]):
        assert container["securityContext"] == {
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }


def test_the_user_is_that_of_the_image():
    text = (FOLDER.parents[1] / "Dockerfile").read_text()
    user = manifest("statefulset")["spec"]["template"]["spec"]["securityContext"]["runAsUser"]
    assert f"\nUSER {user}:{user}\n" in text


def test_prometheus_alone_comes_in_and_calls_the_job_by_its_name():
    policy = manifest("networkpolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress"]
    assert [port["port"] for rule in policy["ingress"] for port in rule["ports"]] == ["metrics"]
    (endpoint,) = manifest("podmonitor")["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == "metrics"
    assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": "dispatcher"}]
    scrape = yaml.safe_load((FOLDER.parent / "prometheus" / "prometheus.yml").read_text())
    assert [job["job_name"] for job in scrape["scrape_configs"]] == ["dispatcher"]
