"""The doctor asks a real host: an engine of the tests' own, over SSH, before and after it is made a Swarm."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

import doctor
from doctor import MISSING, OK, World
from prepare_host import make_key
from support.ports import free_port
from support.ssh_server import ssh_server
from swarm.own_engine import OwnEngine


def test_a_swarm_for_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No Swarm is missing with the command that makes one; with one, the host is fine, and its ports are seen."""
    tmp_path.chmod(0o700)
    port, key = free_port(), make_key(tmp_path / "key")
    (tmp_path / "authorized").write_text(key + "\n", "utf-8")
    with tempfile.TemporaryDirectory(prefix="fh") as short:
        own = OwnEngine(Path(short) / "engine", tmp_path / "registry", free_port())
        own.folder.mkdir()
        try:
            own.start()
            options = f"AuthorizedKeysFile {tmp_path}/authorized\nStrictModes no\nUsePAM no"
            options += f"\nSetEnv DOCKER_HOST={own.env['DOCKER_HOST']} HOME={tmp_path}"
            with ssh_server(tmp_path, own.address, port, options, lambda command: [*own.enter, *command]) as host_key:
                (tmp_path / "known").write_text(f"[{own.address}]:{port} {host_key}\n", "utf-8")
                wrapper = tmp_path / "bin" / "ssh"
                wrapper.parent.mkdir()
                more = f"-o UserKnownHostsFile={tmp_path}/known -o IdentitiesOnly=yes -i {tmp_path}/key"
                wrapper.write_text(f'#!/bin/sh\nexec /usr/bin/ssh {more} "$@"\n', "utf-8")
                wrapper.chmod(0o755)
                monkeypatch.setenv("PATH", str(wrapper.parent), prepend=":")
                login = f"root@{own.address}:{port}"
                lines = list(doctor.host_swarm(World({}, login=login)))
                assert [(line.state, line.said) for line in lines] == [(MISSING, "the host is in no Swarm")]
                assert lines[0].fix == f"python3 scripts/prepare_host.py {login}"
                own.docker("swarm", "init", "--advertise-addr", own.address)
                world = World({}, login=login)
                assert [line.said for line in doctor.host_swarm(world)] == ["the host manages a Swarm of 1"]
                assert {line.state for line in doctor.host_login(world)} == {OK}
                assert f"{own.address}:{port}" in world.host["ports"].split()
        finally:
            own.stop()
