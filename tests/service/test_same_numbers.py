"""What says how the service runs says the same: compose.yaml, the stack, the manifest, the Dockerfile, the README."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from friendlyhello import gunicorn_conf
from friendlyhello.counter import KEY

ROOT = Path(__file__).resolve().parents[2]
COMPOSE, STACK, REDIS, PORT = (
    yaml.safe_load((ROOT / name).read_text("utf-8"))["services"]
    for name in ("compose.yaml", "deploy/compose.stack.yaml", "deploy/compose.redis.yaml", "deploy/compose.port.yaml")
)
POD: dict[str, Any] = next(
    manifest["spec"]
    for manifest in yaml.safe_load_all((ROOT / "deploy/kubernetes.yaml").read_text("utf-8"))
    if manifest["kind"] == "Deployment"
)
README = (ROOT / "README.md").read_text("utf-8")
TIMES = ("interval", "timeout", "retries", "start_period", "start_interval")


def test_redis_is_the_same_with_compose_and_on_a_swarm() -> None:
    """Its user, what clients may do, how its health is asked for, and how long it may take to stop."""
    for name in ("user", "stop_grace_period"):
        assert COMPOSE["redis"][name] == REDIS["redis"][name], name
    ours, theirs = (services["redis"]["healthcheck"] for services in (COMPOSE, REDIS))
    assert [ours.get(name) for name in TIMES] == [theirs.get(name) for name in TIMES]
    rights = f"~{KEY} resetchannels -@all +incrby +get +ping"
    for word in ("appendonly yes", "appendfsync always", rights):
        assert word in REDIS["redis"]["command"][-1]
        assert word in " ".join(COMPOSE["redis"]["command"]).replace("--", "")


def test_the_service_may_finish_what_it_has_begun() -> None:
    """Whoever stops it waits longer than gunicorn does."""
    assert COMPOSE["web"]["stop_grace_period"] == STACK["web"]["stop_grace_period"] == "10s"
    assert gunicorn_conf.graceful_timeout < 10
    pod = POD["template"]["spec"]
    before = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] - before >= 10


def test_the_page_is_on_one_port_everywhere() -> None:
    """4000 for visitors, 80 in the container."""
    assert COMPOSE["web"]["ports"] == ["${BIND:-127.0.0.1}:${PORT:-4000}:80"]
    assert PORT["edge"]["ports"] == [{"target": 4000, "published": "${PUBLISH:-4000}", "mode": "host"}]
    assert {address.rpartition(":")[2] for address in gunicorn_conf.bind} == {"80"}
    assert "EXPOSE 80\n" in (ROOT / "Dockerfile").read_text("utf-8")
    assert set(re.findall(r"-p (\d+:\d+)", README)) == {"4000:80"}


def test_the_service_has_the_same_room_everywhere() -> None:
    """As many replicas, as much of a machine for each, and logs that are thrown away; the README says how many."""
    assert STACK["web"]["deploy"]["replicas"] == f"${{REPLICAS:-{POD['replicas']}}}"
    assert f"more than {POD['replicas']} replicas" in README
    room, pod = STACK["web"]["deploy"]["resources"]["limits"], POD["template"]["spec"]["containers"][0]["resources"]
    for name, services in (("web", STACK), ("redis", REDIS)):
        assert COMPOSE[name]["deploy"]["resources"] == services[name]["deploy"]["resources"]
        assert COMPOSE[name]["logging"] == {"driver": "local"}
    assert (room["cpus"], room["memory"] + "i") == (pod["limits"]["cpu"], pod["limits"]["memory"])
