"""The manifest for those who have a Kubernetes anyway."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS: list[dict[str, Any]] = list(yaml.safe_load_all((ROOT / "deploy/kubernetes.yaml").read_text("utf-8")))


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda manifest: str(manifest["kind"]))
def test_is_valid_by_kubernetes_own_schema(manifest: dict[str, Any]) -> None:
    """kubectl apply takes it: no field is misspelt or of the wrong type."""
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_a_misspelt_field_is_found() -> None:
    """The check above can fail."""
    wrong = {**MANIFESTS[1], "spec": {**MANIFESTS[1]["spec"], "port": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)


def test_says_the_same_as_the_dockerfile() -> None:
    """User and port are the image's own."""
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    pod = MANIFESTS[0]["spec"]["template"]["spec"]
    user = f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
    assert f"USER {user}\n" in dockerfile
    assert f"EXPOSE {pod['containers'][0]['ports'][0]['containerPort']}\n" in dockerfile


def test_the_service_finds_the_pods() -> None:
    """The Service selects what the Deployment starts."""
    deployment, service = MANIFESTS
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert service["spec"]["selector"].items() <= labels.items()
