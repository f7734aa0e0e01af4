"""What the Swarm's answers mean."""

from __future__ import annotations

import json

import pytest

from lib import swarm
from lib.swarm import Service, Task
from swarm_answers import NEW, OLD, task, web


def test_a_service_is_read_from_what_docker_says() -> None:
    """Its image, replicas, secret, ports and the state of its last update."""
    facts = {
        "Spec": {
            "Name": "hello_web",
            "Mode": {"Replicated": {"Replicas": 2}},
            "TaskTemplate": {
                "ContainerSpec": {"Image": f"me/hello@{OLD}", "Env": ["A=b=c"], "Secrets": [{"SecretName": "s"}]}
            },
            "EndpointSpec": {"Ports": [{"PublishedPort": 4000}, {}]},
        },
        "UpdateStatus": {"State": "paused", "Message": "why"},
    }

    found = swarm.parse_services(json.dumps([facts]))["hello_web"]

    assert found == Service("hello_web", f"me/hello@{OLD}", 2, "paused", "why", {"A": "b=c"}, ("s",), (4000,))
    assert found.digest == OLD


def test_a_task_is_read_from_what_docker_says() -> None:
    """A line of JSON each; what failed says why."""
    line = {
        "ID": "t1",
        "Name": " \\_ hello_web.1",
        "Image": f"localhost:5000/me/hello@{NEW}",
        "Node": "n1",
        "DesiredState": "Shutdown",
        "CurrentState": "Failed 3 seconds ago",
        "Error": '"task: non-zero exit (1)"',
    }

    (found,) = swarm.parse_tasks(json.dumps(line) + "\n")

    assert (found.service, found.state, found.since, found.wanted) == (
        "hello_web",
        "failed",
        "3 seconds ago",
        "shutdown",
    )
    assert str(found) == f"hello_web.1 on n1 failed, hello@{NEW[:19]}: task: non-zero exit (1)"


@pytest.mark.parametrize(
    ("service", "tasks", "expected"),
    [
        (web(), [task()], ""),
        (web(), [task("starting")], "hello_web has 0 of 1 running"),
        (web(), [], "hello_web has 0 of 1 running"),
        (web(replicas=0), [], ""),
        (web(), [task(), task(id="t2", image=f"me/hello@{OLD}")], "hello_web has 1 of 1 running"),
        (web(), [task(image=f"me/hello@{OLD}")], "hello_web has 0 of 1 running"),
        (web(), [task(), task("shutdown", id="t2", wanted="shutdown")], ""),
        (web(), [task(), task(id="t2", name="hello_redis.1")], ""),
        (web(update="updating"), [task()], "hello_web is updating"),
        (web(replicas=None), [], "hello_web has 0 of 0 running"),
        (web(replicas=None), [task(), task(id="t2", name="hello_web.node2")], ""),
    ],
)
def test_a_service_has_converged_when_all_and_only_what_is_meant_runs(
    service: Service, tasks: list[Task], expected: str
) -> None:
    """A starting replica, an old one beside the new, and an update under way are not done."""
    assert swarm.behind(service, tasks) == expected


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (f"redis:8@{OLD}", f"redis:8@{OLD}", True),
        (f"redis:8@{OLD}", f"redis:8@{NEW}", False),
        ("redis:8", f"redis:8@{OLD}", True),
        ("redis:7", f"redis:8@{OLD}", False),
    ],
)
def test_a_digest_decides_which_images_are_the_same(one: str, other: str, same: bool) -> None:
    """A tag alone is compared only where there is nothing better."""
    assert swarm.same_image(one, other) is same


def test_each_change_of_a_task_is_told_once() -> None:
    """New tasks and new states; nothing for what stays."""
    before = {"t1": task("starting")}

    assert swarm.changes(before, [task("starting")]) == []
    assert swarm.changes(before, [task("running"), task("assigned", id="t2")]) == [
        f"hello_web.1 on n1 running, hello@{NEW[:19]}",
        f"hello_web.1 on n1 assigned, hello@{NEW[:19]}",
    ]


def test_the_platforms_are_those_of_the_nodes_that_take_tasks() -> None:
    """A drained node, or one that is down, does not matter."""

    def node(architecture: str, state: str = "ready", availability: str = "active") -> dict[str, object]:
        platform = {"OS": "linux", "Architecture": architecture}
        return {
            "Spec": {"Availability": availability},
            "Status": {"State": state},
            "Description": {"Platform": platform},
        }

    nodes = [node("x86_64"), node("aarch64"), node("s390x", state="down"), node("ppc64le", availability="drain")]

    assert swarm.node_platforms(json.dumps(nodes)) == ["linux/amd64", "linux/arm64"]


@pytest.mark.parametrize(
    ("name", "stack"), [("hello", "hello"), ("My.Hello_World", "my-hello-world"), ("é", "friendlyhello")]
)
def test_a_stack_is_named_after_the_repository(name: str, stack: str) -> None:
    """With nothing in it that a Swarm's name cannot have."""
    assert swarm.valid_stack(name) == stack
