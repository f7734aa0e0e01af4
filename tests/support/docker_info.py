"""What `docker info` and `docker buildx inspect` say of an engine that can run the pipeline."""

from __future__ import annotations

from typing import Any

from lib import standin

INFO: dict[str, Any] = {
    "ServerVersion": "26.1.5",
    "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]],
    "ClientInfo": {"Plugins": [{"Name": "buildx", "Version": "v0.13.1+ds1"}, {"Name": "compose"}]},
    "RegistryConfig": {"Mirrors": [], "InsecureRegistryCIDRs": ["127.0.0.0/8"]},
}
MIRRORED = {**INFO, "RegistryConfig": {**INFO["RegistryConfig"], "Mirrors": [f"http://{standin.HOST}/"]}}
INSPECT = "Name:  default\nPlatforms: linux/amd64, linux/amd64/v2, linux/arm64*\n"
