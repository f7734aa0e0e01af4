#!/usr/bin/env python3
"""What building for a second platform costs: cold builds, in one run, as ratios.

Builds this Dockerfile without any cache for one platform and for both, in turn, and once a plain
single-stage Dockerfile with `RUN pip install`, which emulates the second platform. Prints the medians in
seconds, and what packages.txt names is part of the first two. Needs an engine: python3 scripts/engine.py --setup.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import build_image  # noqa: E402
from lib.engine import builder, find  # noqa: E402
from lib.service import PLATFORMS  # noqa: E402

PLAIN = """FROM python:3.13-slim-trixie
WORKDIR /app
COPY requirements.txt .
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \\
    PIP_CERT=/etc/ssl/certs/ca-certificates.crt pip install --no-cache-dir --ignore-installed -r requirements.txt
COPY src/ .
"""


def seconds(dockerfile: Path, platforms: list[str]) -> float:
    """Return how long a build without any cache takes; what it makes is thrown away."""
    ca = build_image.ca_bundle()
    command = [
        *("docker", "buildx", "build", "--builder", builder(), "--no-cache", "--quiet"),
        *("--output", "type=cacheonly", "--platform", ",".join(platforms), "--file", str(dockerfile)),
        *(["--secret", f"id=ca,src={ca}"] if ca else []),
        *(part for name in build_image.proxies() for part in ("--build-arg", name)),
        str(ROOT),
    ]
    start = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - start


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--runs", type=int, default=3, help="of each of our builds (default: %(default)s)")
    options = arguments.parse_args()
    found = find(PLATFORMS)
    one, both = [], []
    for _ in range(max(1, options.runs)):
        one.append(seconds(ROOT / "Dockerfile", list(found.platforms[:1])))
        both.append(seconds(ROOT / "Dockerfile", list(found.platforms)))
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "Dockerfile"
        plain.write_text(PLAIN, "utf-8")
        emulated = seconds(plain, list(found.platforms))
    base, ours = statistics.median(one), statistics.median(both)
    print(f"{os.cpu_count()} cores, {found}; medians of {len(one)}\n")
    print("| cold build | seconds | ratio |\n|---|---:|---:|")
    print(f"| this Dockerfile, one platform | {base:.1f} | 1.0 |")
    print(f"| this Dockerfile, both platforms | {ours:.1f} | {ours / base:.1f} |")
    print(f"| plain `RUN pip install`, both platforms | {emulated:.1f} | {emulated / base:.1f} |")


if __name__ == "__main__":
    main()
