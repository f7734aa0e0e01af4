"""What the Swarm keeps of redeploys: records of what served, and the lock."""

from __future__ import annotations

import base64
import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest

from lib import record, swarm
from lib.command import Failure
from lib.daemon import started_at
from lib.record import Holder, Record, Unfinished
from support.programs import Programs
from support.swarm_answers import PROVEN, RELEASE


def test_a_dead_holder_of_the_lock_is_found_out() -> None:
    """Its process where it ran on this machine; else when its time is over."""
    here = socket.gethostname()
    me = os.getpid()
    alive = Holder(here, me, started_at(me) or 0, "1", since=0, until=0)

    assert not alive.is_dead(now=10)
    assert replace(alive, started=1).is_dead(now=10)
    assert not replace(alive, host="elsewhere", until=11).is_dead(now=10)
    assert replace(alive, host="elsewhere", until=9).is_dead(now=10)


def config(*contents: object, name: str = "hello_deployed_000001") -> str:
    """What `docker config inspect` says about some."""
    data = [base64.b64encode(json.dumps(content).encode()).decode() for content in contents]
    return json.dumps(
        [{"ID": f"c{number}", "Spec": {"Name": name, "Data": text}} for number, text in enumerate(data, start=1)]
    )


def holder(until: float) -> str:
    """What the Swarm keeps of a redeploy from another machine."""
    return config(asdict(Holder("elsewhere", 1, 2, "1.0.0", since=0, until=until)))


TAKEN = "rpc error: code = AlreadyExists\n"


def test_one_at_a_time(docker: Programs) -> None:
    """Somebody else's redeploy is waited for; the sentence says until when, and what to do if it is dead."""
    docker.answer("config create", err=TAKEN, status=1).answer("config inspect", holder(until=4e9))

    with (
        pytest.raises(
            Failure, match=r"process 1 on elsewhere, .* since 00:00:00 UTC .* run docker config rm hello_redep"
        ),
        record.locked("hello", "2", lease=60, wait=-1),
    ):
        pass
    assert not docker.called("docker", "config", "rm")


def test_the_next_one_waits(
    docker: Programs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is told once, and continues when the other one ends."""
    pauses: list[float] = []
    monkeypatch.setattr(record, "time", SimpleNamespace(**{**vars(time), "sleep": pauses.append}))
    for _ in range(2):
        docker.answer("config create", err=TAKEN, status=1, once=True)
    docker.answer("config inspect", holder(until=4e9))

    with record.locked("hello", "2", lease=60, wait=60):
        pass

    assert pauses == [1, 1]
    assert capsys.readouterr().err.count("waiting for it to finish") == 1


def test_a_killed_one_is_taken_over_from(docker: Programs) -> None:
    """By the ID of its lock, so that a newer one of another holder stays; then ours goes by its name."""
    docker.answer("config create", err=TAKEN, status=1, once=True).answer("config inspect", holder(until=1))

    with record.locked("hello", "2", lease=60, wait=60):
        assert docker.called("docker", "config", "rm") == [["docker", "config", "rm", "c1"]]

    assert docker.calls[-1] == ["docker", "config", "rm", "hello_redeploying"]


def test_records_are_kept_and_read(docker: Programs) -> None:
    """Oldest first; of more than twenty the oldest go."""
    names = [f"hello_deployed_{number:06d}" for number in range(1, 23)]
    second = Record(2, RELEASE, "2026-01-03T03:04:05Z", "me@here", before=1)
    docker.answer("config ls", "\n".join(reversed(names)))
    docker.answer("config inspect", config(asdict(second), asdict(PROVEN)))

    record.write_record("hello", second)

    assert docker.calls[-1] == ["docker", "config", "rm", *names[:2]]
    assert record.history("hello") == [PROVEN, second]


@pytest.mark.parametrize(
    ("when", "ask", "says"),
    [
        ("config create", lambda: record.create_config("hello", "lock", "c", {}), "cannot create c in the Swarm"),
        ("config inspect", lambda: record.read_configs(["c"]), "cannot read c in the Swarm"),
        ("service inspect", lambda: swarm.services("hello"), "cannot inspect the services of hello"),
    ],
)
def test_a_swarm_without_a_leader(docker: Programs, when: str, ask: Callable[[], object], says: str) -> None:
    """Is a failure, and not an empty answer."""
    docker.answer("service ls", "hello_web\n").answer(when, err="no leader\n", status=1)

    with pytest.raises(Failure, match=f"^{says}: no leader$"):
        ask()


def test_what_goes_while_it_is_looked_at(docker: Programs) -> None:
    """A record that is already gone is not a failure."""
    docker.answer("service ls", "hello_web\n").answer("service inspect", "[]", "no such service: hello_web\n", status=1)
    docker.answer("config inspect", "[]", "no such config: c\n", status=1)

    assert (swarm.services("hello"), record.read_configs(["c"])) == ({}, [])


def test_records_of_an_earlier_version_count(docker: Programs) -> None:
    """Whatever their labels are: they are found by their names. A field that is new has its default."""
    content = asdict(PROVEN)
    del content["before"]
    del content["release"]["proof"]
    docker.answer(
        "config ls", "hello_deployed_000001\nhello_caddyfile_0123\nhello_deployed_x\nsay_hello_deployed_000002\n"
    )
    docker.answer("config inspect", config({**content, "new": 1}))

    assert record.history("hello") == [PROVEN]

    assert docker.called("docker", "config", "ls") == [
        ["docker", "config", "ls", "--filter", "name=hello_", "--format", "{{.Name}}"]
    ]
    assert docker.called("docker", "config", "inspect") == [["docker", "config", "inspect", "hello_deployed_000001"]]


def test_a_record_that_cannot_be_kept(docker: Programs) -> None:
    """It is a failure, so that nobody thinks that it was."""
    docker.answer("config create", err=TAKEN, status=1)

    with pytest.raises(Failure, match=r"^cannot keep the record of 1\.1\.0 .* another hello_deployed_000002$"):
        record.write_record("hello", Record(2, RELEASE, "2026-01-03T03:04:05Z", "me@here"))


@pytest.mark.parametrize("content", [{}, {"release": {}}, {"release": "1.0.0"}, [], "x", None, {"number": 1}])
def test_a_record_that_is_not_one(docker: Programs, content: object) -> None:
    """A history that cannot be read is a failure, and not an empty one."""
    docker.answer("config ls", "hello_deployed_000001\n").answer("config inspect", config(content))

    with pytest.raises(Failure, match=r"^the config hello_deployed_000001 in the Swarm is not from a redeploy"):
        record.history("hello")


def test_what_ran_before_the_first_change_is_kept(docker: Programs) -> None:
    """Until the end is certain; a second redeploy finds it."""
    change = Unfinished("1.1.0", "2026-01-03T03:04:05Z", "me@here", [{"Spec": {"Name": "hello_web"}}])
    docker.answer("config ls", "hello_unfinished\n").answer("config inspect", config(asdict(change)))

    record.begin("hello", change)
    assert record.unfinished("hello") == change
    record.end("hello")

    assert docker.calls[-1] == ["docker", "config", "rm", "hello_unfinished"]


def test_nothing_is_unfinished(docker: Programs) -> None:
    """That is so where no redeploy was cut off."""
    docker.answer("config ls", "hello_deployed_000001\n")

    assert record.unfinished("hello") is None
