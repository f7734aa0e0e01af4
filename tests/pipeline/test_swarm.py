"""What the Swarm's answers mean."""

from __future__ import annotations

import json
import re
from types import MethodType, SimpleNamespace
from typing import Any

import pytest

from lib import swarm
from lib.command import Failure
from lib.names import PIPELINE
from lib.swarm import Service, Task, valid_stack
from support.programs import Programs
from support.swarm_answers import NEW, OLD, task, web


def test_a_service_is_read_from_what_docker_says() -> None:
    """Its image, replicas, secret, ports and the state of its last update."""
    facts = {
        "Spec": {
            "Name": "hello_web",
            "Mode": {"Replicated": {"Replicas": 2}},
            "TaskTemplate": {
                "ContainerSpec": {
                    "Image": f"me/hello@{OLD}",
                    "Env": ["A=b=c"],
                    "Secrets": [{"SecretName": "s", "File": {"Name": "redis_url"}}],
                }
            },
            "EndpointSpec": {"Ports": [{"TargetPort": 80, "PublishedPort": 4000}, {}]},
        },
        "UpdateStatus": {"State": "paused", "Message": "why"},
    }

    found = swarm.parse_services(json.dumps([facts]))["hello_web"]

    assert found == Service(
        "hello_web", f"me/hello@{OLD}", 2, "paused", "why", {"A": "b=c"}, {"redis_url": "s"}, {80: 4000}
    )
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
    ("name", "more", "stack"),
    [
        ("hello", "", "hello"),
        ("My.Hello_World", "", "my-hello-world"),
        ("é", "", PIPELINE),
        ("hello", "-rehearsal", "hello-rehearsal"),
        ("h" * 41, "", "h" * 41),
        ("h" * 31, "-rehearsal", "h" * 31 + "-rehearsal"),
        ("h" * 42, "", "h" * 32 + "-" + "49a2c6ae"),
    ],
)
def test_a_stack_is_named_after_the_repository(name: str, more: str, stack: str) -> None:
    """With nothing in it that a Swarm's name cannot have; a long one ends in a hash of the whole."""
    assert valid_stack(name, more)[:33] == stack[:33]
    assert len(name + more) > 41 or valid_stack(name, more) == stack


def test_long_names_stay_different() -> None:
    """Shortening makes no two names one, nor a rehearsal the real thing."""
    names = ["h" * 100, "h" * 99, "h" * 99 + "g", "h" * 32 + "-" * 20 + "h"]
    stacks = [valid_stack(name, more) for name in names for more in ("", "-rehearsal")]

    assert len(set(stacks)) == len(stacks)
    assert all(len(stack) <= 41 and re.fullmatch("[a-z0-9-]+[a-z0-9]", stack) for stack in stacks)


# The engine's own interface.


def http(content: object, status: str = "200 OK") -> str:
    """What an engine answers."""
    text = json.dumps(content)
    return f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n{text}"


def test_a_stack_is_put_back(docker: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    """What changed is updated, what is gone is created, what is new goes, and what is as it was stays untouched."""
    asked: list[tuple[str, str, object]] = []

    def spec(name: str, image: str) -> dict[str, object]:
        return {"Spec": {"Name": f"hello_{name}", "Image": image}, "ID": f"id-{name}", "Version": {"Index": 7}}

    before = [spec("edge", "caddy:2"), spec("mail", "mail:1"), spec("redis", "redis:8"), spec("web", "old")]
    paused = {**spec("mail", "mail:1"), "UpdateStatus": {"State": "rollback_paused"}}
    now = [spec("edge", "caddy:2"), paused, spec("web", "new"), spec("worker", "new")]

    def ask(method: str, path: str, content: object = None) -> object:
        asked.append((method, path.partition("?filters")[0], content))
        return now if method == "GET" else None

    monkeypatch.setattr(swarm, "ask_engine", ask)

    swarm.put_back("hello", before)

    assert asked == [
        ("GET", "/services", None),
        ("POST", "/services/id-mail/update?version=7", before[1]["Spec"]),
        ("POST", "/services/create", before[2]["Spec"]),
        ("POST", "/services/id-web/update?version=7", before[3]["Spec"]),
        ("DELETE", "/services/id-worker", None),
    ]


@pytest.mark.parametrize(
    ("out", "err", "says"),
    [
        (
            http({"message": "update out of sequence"}, "409 Conflict"),
            "",
            "answers POST /x with 409: update out of seq",
        ),
        ("", "no leader\n", "the engine does not answer POST /x: no leader"),
        ("nonsense\n", "", "the engine does not answer POST /x: nonsense"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", "", "the engine does not answer POST /x: IncompleteRead"),
        (http("x")[:-1] + "!", "", "the engine does not answer POST /x: "),
    ],
)
def test_an_engine_that_does_not_do_what_it_is_asked(docker: Programs, out: str, err: str, says: str) -> None:
    """It is a failure with its reason."""
    docker.answer("dial-stdio", out, err)

    with pytest.raises(Failure, match=re.escape(says)):
        swarm.ask_engine("POST", "/x", {"a": 1})


def test_an_engine_that_leaves_before_it_is_asked(docker: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it cannot be told any more is a failure with its reason, too, and not a broken pipe."""

    class Timer:
        """Starts when the engine has left, as on a busy machine."""

        def __init__(self, _seconds: float, kill: MethodType) -> None:
            self.process: Any = kill.__self__

        def start(self) -> None:
            self.process.wait()

        def cancel(self) -> None:
            pass

    monkeypatch.setattr(swarm, "threading", SimpleNamespace(Timer=Timer))
    docker.answer("dial-stdio", err="no route to host\n", status=1)

    with pytest.raises(Failure, match="the engine does not answer POST /x: no route to host"):
        swarm.ask_engine("POST", "/x", {"a": 1})
