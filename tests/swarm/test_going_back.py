"""A bad version, or bad settings: the whole stack goes back to what it was, whatever its name."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

import pytest

from lib.command import run, wait_until
from lib.names import FORMER, PIPELINE
from support import projects
from swarm.host import Host

pytestmark = pytest.mark.full


def test_the_whole_stack_is_as_it_was(at_first: Host) -> None:
    """Ports, replicas, secrets and the edge go back with the version, also what an update of `web` alone would not."""
    host = at_first
    before = host.specs()

    done = host.redeploy("crashes", REPLICAS="3", EDGE_PORT="4001", STORE_URL="redis://elsewhere:6379/0")

    assert done.returncode == 1, done.stderr
    assert "is serving" in done.stderr.splitlines()[-1]
    assert host.specs() == before
    assert host.serving() == host.commits[1]
    assert host.configs("unfinished") == []
    # The Redis is another container on the same volume, and its name may take a moment to get around.
    wait_until(lambda: host.visits() > 1, what="the count to continue")


def test_a_good_version_with_other_settings_that_fail(at_first: Host) -> None:
    """A name for which there is no certificate is undone with everything that came with it."""
    host = at_first
    before = host.specs()

    done = host.redeploy("1.1.0", DOMAIN="hello.invalid")

    assert done.returncode == 1, done.stderr
    assert "warning: DOMAIN is 'hello.invalid', which does not resolve" in done.stderr
    assert (host.specs(), host.serving()) == (before, host.commits[1])


def test_settings_are_checked_before_anything_is_touched(at_first: Host) -> None:
    """No task is started, no object created, and no version verified."""
    host = at_first
    before = host.specs(), host.configs("")
    for variable, value in (("DEPLOY_URL", "http://localhost:99999/"), ("REPLICAS", "x"), ("STORE_URL", "http://x")):
        done = host.redeploy("1.1.0", **{variable: value})
        assert (done.returncode, variable in done.stderr) == (2, True), done.stderr
        assert "Traceback" not in done.stderr
    done = host.redeploy("1.1.0", SERVICE_SECRETS="", STACK="other")
    assert "the service needs GREETING" in done.stderr
    assert (host.specs(), host.configs("")) == before


def test_a_service_that_is_renamed_keeps_its_history(at_first: Host, tmp_path: Path) -> None:
    """Every mention of its name is another one, and of the pipeline's, too; a bad version goes back."""
    host = at_first
    other = tmp_path / "renamed"
    shutil.copytree(host.project, other)
    for name in projects.git(other, "ls-files").splitlines():
        text = (other / name).read_bytes()
        for old, new in ((FORMER.encode(), b"shopapi"), (b"fixture", b"shopapi"), (PIPELINE.encode(), b"shopapi")):
            text = text.replace(old, new)
        (other / name).write_bytes(text)
    renamed = Host(host.own, host.port, other, host.commits)
    records = host.configs("deployed")

    done = renamed.redeploy("crashes")

    assert done.returncode == 1, done.stderr
    assert "going back to 1.0.0" in done.stderr
    assert host.serving() == host.commits[1]
    assert host.configs("deployed") == records
    assert renamed.redeploy("1.1.0").returncode == 0
    assert renamed.redeploy("previous").returncode == 0
    assert host.serving() == host.commits[1]


def test_the_records_of_an_earlier_version_count(at_first: Host) -> None:
    """They have other labels and fewer fields; `previous` and going back know them all the same."""
    host = at_first
    assert host.redeploy("1.1.0").returncode == 0
    for name in host.configs("deployed"):
        (facts,) = json.loads(host.own.docker("config", "inspect", name))
        content = json.loads(base64.b64decode(facts["Spec"]["Data"]))
        del content["release"]["proof"]
        host.own.docker("config", "rm", name)
        labels = ("--label", f"{FORMER}.stack=hello", "--label", f"{FORMER}.kind=deployed")
        run(["docker", "config", "create", *labels, name, "-"], stdin=json.dumps(content), env=host.own.env)

    done = host.redeploy("crashes")

    assert "going back to 1.1.0" in done.stderr, done.stderr
    assert host.serving() == host.commits[0]
    assert host.redeploy("previous").returncode == 0
    assert host.serving() == host.commits[1]


def test_a_stack_without_a_record_is_not_removed(at_first: Host) -> None:
    """Somebody removed every record: what ran before is put back all the same, and recorded when it is deployed."""
    host = at_first
    before = host.specs()
    host.own.docker("config", "rm", *host.configs("deployed"))

    done = host.redeploy("page-of-500")

    assert done.returncode == 1, done.stderr
    assert "the version that ran before" in done.stderr.splitlines()[-1]
    assert (host.specs(), host.serving()) == (before, host.commits[1])
