"""The manifest for those who already run Kubernetes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS: list[dict[str, Any]] = list(yaml.safe_load_all((ROOT / "deploy/kubernetes.yaml").read_text("utf-8")))
NAMESPACE, DEPLOYMENT, SERVICE, POLICY = MANIFESTS
POD: dict[str, Any] = DEPLOYMENT["spec"]["template"]["spec"]


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda manifest: str(manifest["kind"]))
def test_is_valid_by_kubernetes_own_schema(manifest: dict[str, Any]) -> None:
    """kubectl apply takes it: no field is misspelt or of the wrong type."""
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_a_misspelt_field_is_found() -> None:
    """The check above can fail."""
    wrong = {**SERVICE, "spec": {**SERVICE["spec"], "port": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)


def test_says_the_same_as_the_dockerfile() -> None:
    """User and port are the image's own."""
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    user = f"{POD['securityContext']['runAsUser']}:{POD['securityContext']['runAsGroup']}"
    assert f"USER {user}\n" in dockerfile
    assert f"EXPOSE {POD['containers'][0]['ports'][0]['containerPort']}\n" in dockerfile


def test_everything_is_in_one_namespace_and_about_the_same_pods() -> None:
    """The Service and the policy select what the Deployment starts."""
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    assert DEPLOYMENT["spec"]["selector"]["matchLabels"] == labels
    assert SERVICE["spec"]["selector"].items() <= labels.items()
    assert POLICY["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    assert {each["metadata"]["namespace"] for each in (DEPLOYMENT, SERVICE, POLICY)} == {NAMESPACE["metadata"]["name"]}


def test_the_secret_is_a_file_that_the_service_may_read_and_no_environment() -> None:
    """The volume is where REDIS_URL_FILE says, and its group is the pod's."""
    container = POD["containers"][0]
    (variable,), (mount,), (volume,) = container["env"], container["volumeMounts"], POD["volumes"]
    assert variable == {"name": "REDIS_URL_FILE", "value": f"{mount['mountPath']}/redis-url"}
    assert volume["name"] == mount["name"]
    assert volume["secret"]["secretName"] == DEPLOYMENT["metadata"]["name"]
    assert volume["secret"]["defaultMode"] == 0o440
    assert POD["securityContext"]["fsGroup"] == POD["securityContext"]["runAsGroup"]
    assert "redis-url=" in (ROOT / "deploy/KUBERNETES.md").read_text("utf-8")


def test_the_policy_names_every_port_and_leaves_nothing_open() -> None:
    """Both directions are closed but for the page, name servers and Redis."""
    assert POLICY["spec"]["policyTypes"] == ["Ingress", "Egress"]
    ports = {
        direction: {port["port"] for rule in POLICY["spec"][direction] for port in rule["ports"]}
        for direction in ("ingress", "egress")
    }
    assert ports == {"ingress": {POD["containers"][0]["ports"][0]["name"]}, "egress": {53, 6379}}
