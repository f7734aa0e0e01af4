"""What a redeploy decides: which version, how it is deployed, and what the Swarm's answers mean. No Docker."""

from __future__ import annotations

import http.server
import json
import os
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

import redeploy
from lib import swarm
from lib.command import Failure, UsageError
from lib.daemon import started_at
from lib.names import ImageName
from lib.ssh import connection, parse_target, private, reason, ssh_options
from lib.swarm import Holder, Record, Release, Service, Task

OLD = "sha256:" + "a" * 64
NEW = "sha256:" + "b" * 64
COMMIT = "c" * 40


def release(version: str = "1.0.0", digest: str = OLD) -> Release:
    """A release of me/hello."""
    return Release(version, "me/hello", digest, COMMIT)


def record(number: int, version: str, digest: str, before: int | None) -> Record:
    """A record of a release."""
    return Record(number, release(version, digest), "2026-01-02T03:04:05Z", "me@here", before=before)


def task(state: str = "running", **more: str) -> Task:
    """A task of the service hello_web."""
    facts = {"id": "t1", "name": "hello_web.1", "image": f"me/hello@{NEW}", "node": "n1", "wanted": "running", **more}
    return Task(**facts, state=state)


def web(**more: object) -> Service:
    """The service hello_web, which is to run the new digest once."""
    return replace(Service("hello_web", f"me/hello@{NEW}", 1), **more)  # type: ignore[arg-type]


# How to deploy.


def test_a_first_deployment_has_the_documented_settings() -> None:
    """Port 4000, two replicas, a Redis of its own."""
    found = redeploy.settings("hello", {}, None, {})

    assert found == redeploy.Settings("hello", "", 4000, 2, "hello_redis_url")
    assert found.own_redis


def test_what_is_running_is_kept_where_nothing_else_is_said() -> None:
    """A redeploy from another machine drops neither the domain, nor the replicas, nor the Redis elsewhere."""
    before = replace(record(1, "1.0.0", OLD, None), domain="hello.example.org", port=4100)
    running = {"web": web(replicas=5, secrets=("hello_redis_url_0123456789ab",))}

    found = redeploy.settings("hello", {"DOMAIN": "", "REPLICAS": ""}, before, running)

    assert found == redeploy.Settings("hello", "hello.example.org", 4100, 5, "hello_redis_url_0123456789ab")
    assert not found.own_redis


def test_the_environment_is_heard_before_what_is_running() -> None:
    """A secret's name tells that it is another one, and not what it is."""
    env = {"DOMAIN": "a.example.org", "EDGE_PORT": "81", "REPLICAS": "3", "REDIS_URL": "rediss://:secret@elsewhere"}

    found = redeploy.settings("hello", env, record(1, "1.0.0", OLD, None), {"web": web(replicas=1)})

    assert (found.domain, found.port, found.replicas) == ("a.example.org", 81, 3)
    assert found.secret.startswith("hello_redis_url_")
    assert "secret" not in found.secret


def test_a_rehearsal_asks_for_no_certificate_and_touches_no_redis_elsewhere() -> None:
    """DOMAIN and REDIS_URL are for the real host."""
    env = {"DOMAIN": "a.example.org", "REDIS_URL": "redis://elsewhere"}

    assert redeploy.settings("hello", env, None, {}, rehearsal=True) == redeploy.settings("hello", {}, None, {})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DOMAIN", "localhost"),
        ("DOMAIN", "a.example.org; rm -rf /"),
        ("DOMAIN", "{$SECRET}.example.org"),
        ("EDGE_PORT", "0"),
        ("EDGE_PORT", "65536"),
        ("EDGE_PORT", "http"),
        ("REPLICAS", "-1"),
        ("REPLICAS", "101"),
        ("REDIS_URL", "http://:secret@elsewhere"),
    ],
)
def test_a_bad_setting_is_named(variable: str, value: str) -> None:
    """One sentence with the variable; never a password."""
    with pytest.raises(UsageError) as error:
        redeploy.settings("hello", {variable: value}, None, {})

    assert variable in str(error.value)
    assert "secret@" not in str(error.value)


def test_the_stack_is_deployed_by_digest_and_moves_nothing_else() -> None:
    """The exact command, and what fills in the stack file."""
    how = redeploy.Settings("hello", secret="hello_redis_url")

    assert redeploy.deploy_command(how) == [
        "docker",
        "stack",
        "deploy",
        "--detach=true",
        "--prune",
        "--with-registry-auth",
        "--resolve-image",
        "changed",
        "--compose-file",
        str(redeploy.DEPLOY / "stack.yaml"),
        "hello",
    ]
    variables = redeploy.deploy_environment(how, release())
    assert variables["IMAGE"] == f"me/hello@{OLD}"
    assert (variables["PORT"], variables["REPLICAS"], variables["REDIS_REPLICAS"]) == ("4000", "2", "1")


def test_a_domain_publishes_the_ports_for_https() -> None:
    """domain.yaml comes on top of the stack, and an outside Redis leaves none inside."""
    how = redeploy.Settings("hello", domain="a.example.org", secret="hello_redis_url_0123456789ab")

    assert redeploy.deploy_command(how)[-3:-1] == ["--compose-file", str(redeploy.DEPLOY / "domain.yaml")]
    assert redeploy.deploy_environment(how, release())["REDIS_REPLICAS"] == "0"


@pytest.mark.parametrize(
    ("domain", "host", "env", "expected"),
    [
        ("", "", {}, "http://localhost:4000/"),
        ("", "10.0.0.1", {}, "http://10.0.0.1:4000/"),
        ("a.example.org", "10.0.0.1", {}, "https://a.example.org/"),
        ("a.example.org", "", {"DEPLOY_URL": "http://10.0.0.2/"}, "http://10.0.0.2/"),
    ],
)
def test_the_page_is_asked_for_where_visitors_find_it(
    domain: str, host: str, env: dict[str, str], expected: str
) -> None:
    """The domain, the host, or what DEPLOY_URL says."""
    assert redeploy.url(redeploy.Settings("hello", domain), host, env) == expected


# Which version.


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("1.2.3", "me/hello:1.2.3"),
        ("v1.2.3", "me/hello:1.2.3"),
        ("v1.3.0-rc.1", "me/hello:1.3.0-rc.1"),
        ("very-new", "me/hello:very-new"),
        (COMMIT, f"me/hello:{COMMIT}"),
        (OLD, f"me/hello@{OLD}"),
    ],
)
def test_a_version_is_a_tag_or_a_digest(version: str, expected: str) -> None:
    """The name of a Git tag is understood as well."""
    assert redeploy.reference(ImageName("", "me", "hello"), redeploy.check_version(version)) == expected


@pytest.mark.parametrize("version", ["", "-x", "a b", "$(id)", "1.2.3\n", "sha256:abc", "é", "a" * 129])
def test_what_cannot_be_a_version_is_refused(version: str) -> None:
    """Before anything is asked or run."""
    with pytest.raises(UsageError):
        redeploy.check_version(version)


def test_previous_goes_back_and_further_back() -> None:
    """After going back from 3 to 2, previous is 1, and not the version that was left."""
    records = [record(1, "1", OLD, None), record(2, "2", NEW, 1), record(3, "3", OLD, 2)]
    going_back, before = redeploy.choose("previous", records, release)
    assert (going_back.version, before) == ("2", 1)

    records.append(record(4, "2", NEW, 1))
    further, before = redeploy.choose("previous", records, release)
    assert (further.version, before) == ("1", None)


@pytest.mark.parametrize("records", [[], [record(1, "1", OLD, None)]])
def test_there_is_no_previous_of_the_first(records: list[Record]) -> None:
    """One sentence says so."""
    with pytest.raises(Failure, match="no version was deployed before"):
        redeploy.choose("previous", records, release)


def test_deploying_the_same_again_leaves_previous_where_it_was() -> None:
    """A re-run is no new version; another digest is."""
    records = [record(1, "1", OLD, None), record(2, "2", NEW, 1)]

    assert redeploy.choose("2", records, lambda: release("2", NEW))[1] == 1
    assert redeploy.choose("3", records, lambda: release("3", "sha256:" + "d" * 64))[1] == 2
    assert redeploy.choose("1", [], release)[1] is None


def test_a_dry_run_shows_a_diff_of_versions() -> None:
    """From what to what; from nothing where nothing is deployed."""
    assert redeploy.difference(None, release()).splitlines()[0] == "- nothing"
    lines = redeploy.difference(release("1", OLD), release("2", NEW)).splitlines()
    assert lines[:2] == [f"- {release('1', OLD)}", f"+ {release('2', NEW)}"]


# What the Swarm's answers mean.


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


def test_a_dead_holder_of_the_lock_is_found_out() -> None:
    """Its process where it ran on this machine; else when its time is over."""
    here = socket.gethostname()
    me = os.getpid()
    alive = Holder(here, me, started_at(me) or 0, "1", since=0, until=0)

    assert not alive.is_dead(now=10)
    assert replace(alive, started=1).is_dead(now=10)
    assert not replace(alive, host="elsewhere", until=11).is_dead(now=10)
    assert replace(alive, host="elsewhere", until=9).is_dead(now=10)


@pytest.mark.parametrize(
    ("name", "stack"), [("hello", "hello"), ("My.Hello_World", "my-hello-world"), ("é", "friendlyhello")]
)
def test_a_stack_is_named_after_the_repository(name: str, stack: str) -> None:
    """With nothing in it that a Swarm's name cannot have."""
    assert swarm.valid_stack(name) == stack


# Over SSH.


@pytest.mark.parametrize(
    ("text", "docker_host"),
    [
        ("hello.example.org", "ssh://deploy@hello.example.org:22"),
        ("me@10.0.0.1:2222", "ssh://me@10.0.0.1:2222"),
        ("hello:2222", "ssh://deploy@hello:2222"),
    ],
)
def test_a_host_is_reached_as_the_deploy_user_unless_another_is_named(text: str, docker_host: str) -> None:
    """[user@]host[:port]"""
    target = parse_target("DEPLOY_HOST", text)
    assert (str(target), target.docker_host) == (text, docker_host)


@pytest.mark.parametrize(
    "text",
    ["", "-oProxyCommand=id", "a b", "a;b", "me@", "a:", "a:0", "a:70000", "a\n", "a\nb", "$(id)", "a@b@c", "a-", "a."],
)
def test_what_is_no_host_is_refused(text: str) -> None:
    """Nothing reaches ssh that it or a shell could take for something else; the sentence says what is wrong."""
    with pytest.raises(UsageError, match=rf"^--join is {re.escape(repr(text))}, which is not \[user@\]host\[:port\]"):
        parse_target("--join", text)


@pytest.mark.parametrize(
    ("text", "ssh", "known_as"),
    [
        ("root@host.example.org", "ssh root@host.example.org", "host.example.org"),
        ("host", "ssh host", "host"),
        ("me@192.0.2.1:2222", "ssh -p 2222 me@192.0.2.1", "[192.0.2.1]:2222"),
        ("me@host:22", "ssh -p 22 me@host", "host"),
    ],
)
def test_how_a_host_is_reached_by_hand(text: str, ssh: str, known_as: str) -> None:
    """What is not said is left to ssh's own configuration; ssh keeps the key of another port under another name."""
    target = parse_target("DEPLOY_HOST", text)
    assert (" ".join(target.ssh), target.known_as) == (ssh, known_as)


def test_ssh_never_trusts_a_key_that_nobody_vouched_for() -> None:
    """Strict, without questions, with our known hosts and no others."""
    options = ssh_options(Path("/k"), Path("/known"), Path("/c"))

    assert "StrictHostKeyChecking=yes" in options
    assert "BatchMode=yes" in options
    assert "UserKnownHostsFile=/known" in options
    assert "GlobalKnownHostsFile=/dev/null" in options
    assert options[-2:] == ["-i", "/k"]
    assert "-i" not in ssh_options(None, None, Path("/c"))


def test_a_host_without_its_key_is_refused() -> None:
    """DEPLOY_KNOWN_HOSTS is not optional."""
    with pytest.raises(UsageError, match="DEPLOY_KNOWN_HOSTS is not set"), connection({"DEPLOY_HOST": "a.example.org"}):
        pass


@pytest.mark.parametrize(
    ("docker_host", "host"), [("", ""), ("unix:///run/docker.sock", ""), ("tcp://10.0.0.1:2376", "10.0.0.1")]
)
def test_without_ssh_docker_is_left_as_it_is(docker_host: str, host: str) -> None:
    """This machine's engine, or one that DOCKER_HOST names."""
    with connection({"DOCKER_HOST": docker_host}) as found:
        assert found == host


def test_a_key_is_written_for_our_eyes_only(tmp_path: Path) -> None:
    """With the line break at its end that ssh wants, and without those of Windows."""
    written = private(tmp_path / "key", "a\r\nb")

    assert written is not None
    assert written.read_bytes() == b"a\nb\n"
    assert written.stat().st_mode & 0o777 == 0o600
    assert private(tmp_path / "none", " \n") is None


def test_sshs_own_words_are_found_among_dockers() -> None:
    """The last line of them."""
    assert reason("error: exit status 255, stderr=Warning\r\nHost key verification failed.\r\n") == (
        "Host key verification failed."
    )
    assert reason("") == "no reason given"


# Through the edge.


class Page(http.server.BaseHTTPRequestHandler):
    """A page whose answers come from a list; the last one is given for ever."""

    answers: ClassVar[list[tuple[int, str]]] = []

    def do_GET(self) -> None:
        """Answer."""
        status, revision = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.send_response(status)
        self.send_header("X-Revision", revision)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def page() -> Iterator[str]:
    """Where the page is."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()


def test_every_answer_has_to_carry_the_new_revision(page: str) -> None:
    """An old answer in between starts the row anew."""
    Page.answers = [(200, "old"), (200, "new"), (200, "old"), (200, "new")]

    redeploy.smoke_test(page, "new", answers=3, seconds=20)

    assert len(Page.answers) == 1


def test_errors_of_the_release_itself_are_not_waited_out(page: str) -> None:
    """The version before may answer with errors, and one of the new version's may be chance."""
    Page.answers = [(500, "old"), (502, "old"), (500, "new"), (200, "new"), (503, "new"), (200, "new")]

    with pytest.raises(Failure, match="does not answer with revision new: status 503, revision new"):
        redeploy.smoke_test(page, "new", answers=3, seconds=3600)

    assert len(Page.answers) == 1


@pytest.mark.parametrize(("status", "revision"), [(200, "old"), (500, "new"), (200, "")])
def test_a_wrong_answer_fails_with_what_was_found(page: str, status: int, revision: str) -> None:
    """The address, the status and the revision are in the sentence."""
    Page.answers = [(status, revision)]

    with pytest.raises(Failure, match=f"does not answer with revision new: status {status}"):
        redeploy.smoke_test(page, "new", answers=3, seconds=0)


def test_nobody_at_the_edge_is_a_failure_with_a_reason() -> None:
    """No traceback for a refused connection."""
    with pytest.raises(Failure, match="ConnectionRefusedError"):
        redeploy.smoke_test("http://127.0.0.1:1/", "new", answers=1, seconds=0)
