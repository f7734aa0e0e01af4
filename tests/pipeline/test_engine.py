"""Finding an engine, saying what is missing, and setting one up: with programs that answer from a table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import engine
from lib import apt, standin
from lib.command import Failure, wait_until
from lib.daemon import Daemon
from lib.engine import Engine
from lib.names import FORMER, PIPELINE
from lib.service import PLATFORMS
from support.docker_info import INFO, INSPECT, MIRRORED
from support.programs import Programs

GOOD = Engine(version="26.1.5", image_store=True, buildx=(0, 13, 1), platforms=("linux/amd64", "linux/arm64"))
WANTED = {"features": {"containerd-snapshotter": True}, "registry-mirrors": ["http://localhost:5055"]}


@pytest.mark.parametrize(
    ("existing", "expected"),
    [
        ("", WANTED),
        (" \n", WANTED),
        ("{}", WANTED),
        (json.dumps(WANTED), WANTED),
        ('{"log-level": "warn"}', {"log-level": "warn", **WANTED}),
        (
            '{"features": {"buildkit": true}}',
            {**WANTED, "features": {"buildkit": True, "containerd-snapshotter": True}},
        ),
        (
            '{"registry-mirrors": ["https://mirror.example.com"], "features": {"containerd-snapshotter": false}}',
            {**WANTED, "registry-mirrors": ["https://mirror.example.com", "http://localhost:5055"]},
        ),
    ],
)
def test_merged(existing: str, expected: dict[str, Any]) -> None:
    """A daemon.json gains what we need and loses nothing; doing it twice changes nothing."""
    text = engine.merged(existing, WANTED)
    assert json.loads(text) == expected
    assert engine.merged(text, WANTED) == text


def test_merged_sets_single_values() -> None:
    """A value that is neither a list nor an object is replaced."""
    assert json.loads(engine.merged('{"debug": false}', {"debug": True})) == {"debug": True}


@pytest.mark.parametrize(
    ("existing", "sentence"),
    [
        ("{", r"daemon.json is not JSON \(.*\); fix it first"),
        ("[1]", "daemon.json is not a JSON object; fix it first"),
    ],
)
def test_a_broken_daemon_json(existing: str, sentence: str) -> None:
    """A broken file is its owner's to fix: nothing is overwritten."""
    with pytest.raises(Failure, match=sentence):
        engine.merged(existing, WANTED)


class Machine:
    """A bare machine: its files are in a folder, and its programs answer from a table."""

    def __init__(self, folder: Path, programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
        self.programs = programs
        self.daemon_json = folder / "etc/docker/daemon.json"
        self.dockerd = Daemon("dockerd", folder / "run")
        self.hub = Daemon("hub", folder / "run")
        self.made: list[tuple[str, ...]] = []
        self.patch = monkeypatch
        for name, value in {
            "DAEMON_JSON": self.daemon_json,
            "RUN": folder / "run",
            "DATA": folder / "data",
            "DOCKERD": self.dockerd,
            "HUB": self.hub,
            "has_systemd": lambda: False,
            "PID_FILES": (folder / "docker.pid",),
            "OS_RELEASE": folder / "etc/os-release",
        }.items():
            monkeypatch.setattr(engine, name, value)
        monkeypatch.setattr(apt, "FOLDER", folder / "etc/apt")
        monkeypatch.setattr(apt, "installed", lambda _package: True)
        monkeypatch.setattr(apt, "debian_source", lambda: ("http://deb.example.com/debian", ""))
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setattr(standin, "hub_reachable", lambda: True)
        monkeypatch.setattr(standin, "has", lambda _image: False)
        monkeypatch.setattr(standin, "make_missing", lambda platforms: self.made.append(tuple(platforms)))
        monkeypatch.delenv("RUNNER_ENVIRONMENT", raising=False)
        programs.add("docker", "apt-get", "apt-cache", "mount", "update-binfmts", "systemctl")
        # An engine that answers as soon as it was started, and is still there when the test ends it.
        started = folder / "started"
        (programs.bin / "dockerd").write_text(f"#!/bin/sh\ntouch {started}\nexec sleep 60\n", "utf-8")
        (programs.bin / "dockerd").chmod(0o755)
        monkeypatch.setattr(engine, "answers", lambda: started.exists())
        self.started = started

    def has(self, info: dict[str, Any], inspect: str = INSPECT) -> None:
        """Let the engine say this."""
        self.programs.answer("^docker info", json.dumps(info)).answer("^docker buildx inspect", inspect)


@pytest.fixture
def machine(tmp_path: Path, programs: Programs, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """A machine with nothing of ours on it; what is started there is ended."""
    machine = Machine(tmp_path, programs, monkeypatch)
    yield machine
    machine.dockerd.stop()
    machine.hub.stop()


def test_setup_of_an_engine_that_is_good_does_nothing(machine: Machine) -> None:
    """An engine that can do all is taken as it is."""
    machine.has(INFO)
    assert engine.setup(offline=False, platforms=PLATFORMS) == GOOD
    assert {call[0] for call in machine.programs.calls} == {"docker"}
    assert not machine.daemon_json.exists()


def test_setup_starts_an_engine(machine: Machine) -> None:
    """Where none answers, one is configured and started."""
    machine.has(INFO)
    machine.programs.answer("^docker", status=1)
    machine.patch.setattr(engine, "look", iter([Engine(buildx=(0, 13)), GOOD]).__next__)
    machine.patch.setattr(engine, "find", lambda _platforms: GOOD)
    assert engine.setup(offline=False, platforms=PLATFORMS) == GOOD
    assert machine.dockerd.pid is not None
    assert json.loads(machine.daemon_json.read_text("utf-8")) == {"features": {"containerd-snapshotter": True}}
    assert machine.made == []
    engine.stop()
    assert machine.dockerd.pid is None


def test_setup_leaves_the_engine_of_its_user_alone(machine: Machine) -> None:
    """It says what is to be changed, and changes nothing."""
    machine.started.touch()
    machine.has({**INFO, "DriverStatus": []})
    with pytest.raises(Failure, match=r"so it is left alone; add .*snapshotter.* restart it, and"):
        engine.setup(offline=False, platforms=PLATFORMS)
    assert not machine.daemon_json.exists()


def test_setup_asks_for_a_mirror_where_the_hub_is_blocked(machine: Machine) -> None:
    """An engine of its user's needs one line more, and is told which."""
    machine.started.touch()
    machine.has(INFO)
    with pytest.raises(Failure, match=r"add .*\"registry-mirrors\": \[\"http://localhost:5055\"\].* to "):
        engine.setup(offline=True, platforms=PLATFORMS)


def test_setup_installs_emulation_beside_the_engine_of_its_user(machine: Machine) -> None:
    """What the engine itself does not notice may be added."""
    machine.started.touch()
    machine.programs.answer("^docker info", json.dumps(INFO))
    machine.programs.answer("^docker buildx inspect", "Platforms: linux/amd64\n", once=True)
    machine.programs.answer("^docker buildx inspect", "Platforms: linux/amd64\n", once=True)
    machine.programs.answer("^docker buildx inspect", INSPECT)
    assert engine.setup(offline=False, platforms=PLATFORMS) == GOOD
    assert machine.programs.called("update-binfmts") == [["update-binfmts", "--enable"]]


def test_setup_on_a_github_runner_switches_the_image_store_on(machine: Machine) -> None:
    """A runner is thrown away afterwards: its engine is configured, and never stands in for Docker Hub."""
    machine.patch.setenv("RUNNER_ENVIRONMENT", "github-hosted")
    machine.patch.setattr(engine, "has_systemd", lambda: True)
    machine.patch.setattr(standin, "hub_reachable", lambda: False)
    machine.started.touch()
    machine.programs.answer("^docker info", json.dumps({**INFO, "DriverStatus": []}), once=True)
    machine.has(INFO)
    assert engine.setup(offline=False, platforms=PLATFORMS) == GOOD
    assert machine.programs.called("systemctl") == [
        ["systemctl", "reset-failed", "docker"],
        ["systemctl", "restart", "docker"],
    ]
    assert json.loads(machine.daemon_json.read_text("utf-8")) == {"features": {"containerd-snapshotter": True}}
    assert machine.made == []


def test_setup_on_a_github_runner_installs_emulation(machine: Machine) -> None:
    """A runner's engine runs its own platform only: QEMU comes from the distribution, and not from an action."""
    machine.patch.setenv("RUNNER_ENVIRONMENT", "github-hosted")
    machine.patch.setattr(engine, "has_systemd", lambda: True)
    machine.patch.setattr(apt, "installed", lambda _package: False)
    machine.started.touch()
    machine.programs.answer("^docker info", json.dumps(INFO))
    for _ in range(2):
        machine.programs.answer("^docker buildx inspect", "Platforms: linux/amd64, linux/amd64/v2\n", once=True)
    machine.programs.answer("^docker buildx inspect", INSPECT)
    assert engine.setup(offline=False, platforms=PLATFORMS) == GOOD
    assert installs(machine) == [["qemu-user-static", "binfmt-support"]]
    assert machine.programs.called("update-binfmts") == [["update-binfmts", "--enable"]]


def test_setup_for_one_platform_installs_no_emulation(machine: Machine) -> None:
    """A service that is built for this platform only needs no QEMU."""
    machine.has(INFO, "Platforms: linux/amd64\n")
    found = engine.setup(offline=False, platforms=["linux/amd64"])
    assert found.platforms == ("linux/amd64",)
    assert machine.programs.called("update-binfmts") == []


TLS_ON_LOCALHOST = {**MIRRORED, "RegistryConfig": {**MIRRORED["RegistryConfig"], "InsecureRegistryCIDRs": []}}


def test_setup_adds_localhost_to_what_an_engine_of_ours_trusts(machine: Machine) -> None:
    """Engine 29.10 would want TLS of the stand-in, because somebody named an insecure registry of theirs."""
    machine.patch.setenv("RUNNER_ENVIRONMENT", "github-hosted")
    machine.daemon_json.parent.mkdir(parents=True)
    machine.daemon_json.write_text('{"insecure-registries": ["registry.corp:3000"]}', "utf-8")
    machine.patch.setattr(standin, "answers", lambda _port: False)
    machine.patch.setattr(standin, "start_registry", lambda *_: None)
    # It is looked at once more after each step.
    machine.programs.answer("^docker info", json.dumps({**TLS_ON_LOCALHOST, "DriverStatus": []}), once=True)
    machine.has(MIRRORED)
    assert engine.setup(offline=True, platforms=PLATFORMS).loopback
    written = json.loads(machine.daemon_json.read_text("utf-8"))
    assert written["insecure-registries"] == ["registry.corp:3000", "127.0.0.0/8", "::1/128"]


def test_setup_asks_the_owner_to_trust_localhost(machine: Machine) -> None:
    """An engine that belongs to its user is left alone, and the sentence has the whole setting."""
    machine.started.touch()
    machine.has(TLS_ON_LOCALHOST)
    machine.programs.answer("^docker", status=0)
    machine.patch.setattr(engine, "start_hub", lambda: None)
    with pytest.raises(Failure, match=r'add .*"insecure-registries": \["127.0.0.0/8", "::1/128"\].* to '):
        engine.setup(offline=True, platforms=PLATFORMS)
    assert machine.made == []


@pytest.mark.parametrize(
    ("there", "expected"),
    [((), PIPELINE), ((FORMER,), FORMER), ((PIPELINE,), PIPELINE), ((FORMER, PIPELINE), PIPELINE)],
)
def test_what_an_earlier_version_set_up_is_found(tmp_path: Path, there: tuple[str, ...], expected: str) -> None:
    """Its engine is stopped, and its base images are used, under the name that it gave them."""
    for name in there:
        (tmp_path / name).mkdir()
    assert engine.own(str(tmp_path)) == tmp_path / expected


def test_setup_stands_in_for_the_hub(machine: Machine) -> None:
    """Where Docker Hub cannot be reached: a registry, an engine that mirrors it, base images."""
    machine.patch.setattr(standin, "hub_reachable", lambda: False)
    machine.patch.setattr(standin, "answers", lambda _port: False)
    registries: list[tuple[str, str, int]] = []
    machine.patch.setattr(
        standin,
        "start_registry",
        lambda daemon, folder, port: registries.append((daemon.name, folder.name, port)),
    )
    bare = {"ClientInfo": INFO["ClientInfo"]}
    machine.programs.answer("^docker info", json.dumps(bare), once=True)
    machine.has(MIRRORED)
    assert engine.setup(offline=False, platforms=PLATFORMS).stands_in
    assert registries == [("hub", "hub", 5055)]
    assert json.loads(machine.daemon_json.read_text("utf-8"))["registry-mirrors"] == ["http://localhost:5055"]
    assert machine.made == [("linux/amd64", "linux/arm64")]


def test_setup_starts_the_stand_in_again(machine: Machine) -> None:
    """After a reboot the engine is there, and its mirror may not be."""
    machine.has(MIRRORED)
    begun: list[bool] = []
    machine.patch.setattr(engine, "start_hub", lambda: begun.append(True))
    assert engine.setup(offline=True, platforms=PLATFORMS).stands_in
    assert (begun, machine.made) == ([True], [("linux/amd64", "linux/arm64")])


@pytest.mark.parametrize(("info", "stands_in"), [(INFO, False), (MIRRORED, True)], ids=["hub", "stand-in"])
def test_setup_where_nothing_is_missing_needs_no_root(machine: Machine, info: dict[str, Any], stands_in: bool) -> None:
    """Nobody is asked for a password for nothing, on any system."""
    machine.patch.setattr(os, "geteuid", lambda: 1000)
    machine.patch.setattr(sys, "platform", "darwin")
    machine.patch.setattr(standin, "has", lambda _image: True)
    machine.has(info)
    assert engine.setup(offline=stands_in, platforms=PLATFORMS).stands_in is stands_in


def test_the_stand_in_does_not_share_its_port(machine: Machine) -> None:
    """Something else that answers there is nobody that base images could be taken from."""
    machine.patch.setattr(standin, "answers", lambda _port: True)
    with pytest.raises(Failure, match="something else answers on localhost:5055"):
        engine.start_hub()


def test_the_stand_in_that_runs_is_found(machine: Machine) -> None:
    """One that was started before is not started twice."""
    machine.hub.start(["sleep", "60"])
    pid = machine.hub.pid
    engine.start_hub()
    assert machine.hub.pid == pid


def test_a_half_started_engine_is_started_again(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """One of ours that runs and does not answer is ended first."""
    machine.dockerd.start(["sleep", "60"])
    half = machine.dockerd.pid
    engine.restart(changed=False)
    engine.start_dockerd()
    assert "a half-started engine is in the way: stopping it" in capsys.readouterr().err
    assert machine.dockerd.pid not in (None, half)


def test_a_stale_pid_file_is_removed(machine: Machine, tmp_path: Path) -> None:
    """An engine does not start beside the PID file of one that was killed; a live one's is left alone."""
    (tmp_path / "docker.pid").write_text("4194305", "utf-8")
    engine.start_dockerd()
    assert not (tmp_path / "docker.pid").exists()
    machine.patch.setattr(engine, "is_running", lambda *_: True)
    (tmp_path / "docker.pid").write_text("4194305", "utf-8")
    engine.start_dockerd()
    assert (tmp_path / "docker.pid").exists()


def test_an_engine_that_runs_is_left_running(machine: Machine) -> None:
    """Where nothing changed and it answers, there is nothing to restart."""
    machine.started.touch()
    engine.restart(changed=False)
    machine.patch.setattr(engine, "has_systemd", lambda: True)
    engine.restart(changed=False)
    assert machine.dockerd.pid is None
    assert machine.programs.called("systemctl") == []


def test_configuring_twice_changes_nothing(machine: Machine) -> None:
    """The engine is restarted only where its configuration changed."""
    assert engine.configure(engine.settings(GOOD, stand_in=True)) is True
    assert engine.configure(engine.settings(GOOD, stand_in=True)) is False
    assert engine.configure(engine.settings(GOOD, stand_in=False)) is False


@pytest.mark.parametrize(
    ("text", "comm", "running"),
    [
        ("{pid}", "dockerd", True),
        ("{pid}\n", "sleep", False),
        ("4194305", "", False),
        ("x", "", False),
        (None, "", False),
    ],
)
def test_is_running(tmp_path: Path, text: str | None, comm: str, running: bool) -> None:
    """A PID file counts only while its process has the right name."""
    program = tmp_path / (comm or "sleep")
    program.symlink_to("/usr/bin/sleep")
    file = tmp_path / "docker.pid"
    with subprocess.Popen([program, "60"]) as process:
        try:
            # A process has its new name a moment after it was started.
            name = Path(f"/proc/{process.pid}/comm")
            wait_until(lambda: name.read_text("utf-8").strip() == program.name, what="the process's name")
            if text is not None:
                file.write_text(text.format(pid=process.pid), "utf-8")
            assert engine.is_running(file, ("dockerd", "containerd")) is running
        finally:
            process.kill()


def test_setup_without_root_goes_through_sudo(machine: Machine) -> None:
    """Only what needs root runs as root, and it is told how to reach the world."""
    machine.patch.setattr(os, "geteuid", lambda: 1000)
    machine.programs.add("sudo")
    machine.has(INFO)
    assert engine.setup(offline=True, platforms=PLATFORMS) == GOOD
    (call,) = machine.programs.called("sudo")
    assert call[1].startswith("--preserve-env=PLATFORMS,RUNNER_ENVIRONMENT,HTTP_PROXY,")
    assert call[3:] == [engine.__file__, "--setup", "--offline"]


def test_stop_without_root_goes_through_sudo(machine: Machine) -> None:
    """Root started the engine, so root stops it; where nothing runs, nobody is asked for a password."""
    machine.patch.setattr(os, "geteuid", lambda: 1000)
    machine.programs.add("sudo")
    engine.stop()
    assert machine.programs.calls == []
    machine.hub.start(["sleep", "60"])
    engine.stop()
    (call,) = machine.programs.called("sudo")
    assert call[3:] == [engine.__file__, "--stop"]
    assert machine.hub.pid is not None


def test_setup_without_root_or_sudo(machine: Machine) -> None:
    """It says so before it does anything."""
    machine.patch.setattr(os, "geteuid", lambda: 1000)
    machine.patch.setenv("PATH", str(machine.programs.bin))
    with pytest.raises(Failure, match="--setup needs root, and there is no sudo; run it as root"):
        engine.setup(offline=False, platforms=PLATFORMS)


def test_setup_elsewhere_than_on_linux(machine: Machine) -> None:
    """On a laptop with Docker Desktop it says what to change there."""
    machine.patch.setattr(sys, "platform", "darwin")
    machine.has({**INFO, "DriverStatus": []})
    with pytest.raises(Failure, match=r"--setup works on Linux; here: the engine's containerd image store is off"):
        engine.setup(offline=False, platforms=PLATFORMS)


def test_emulation(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's table of interpreters is mounted if it is not."""
    real = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: path.name != "register" and real(path))
    engine.install_qemu()
    assert machine.programs.calls == [
        ["mount", "-t", "binfmt_misc", "binfmt_misc", "/proc/sys/fs/binfmt_misc"],
        ["update-binfmts", "--enable"],
    ]


def distribution(machine: Machine, release: str, *installed: str) -> None:
    """Let the machine be a distribution's, with these packages."""
    for folder in ("sources.list.d", "preferences.d"):
        (apt.FOLDER / folder).mkdir(parents=True)
    engine.OS_RELEASE.write_text(release, "utf-8")
    machine.patch.setattr(apt, "installed", lambda package: package in installed)


def installs(machine: Machine) -> list[list[str]]:
    """The packages of each installation."""
    return [call[5:] for call in machine.programs.called("apt-get", "install")]


def test_no_stand_in_without_a_debian_archive(machine: Machine) -> None:
    """An Ubuntu that cannot reach Docker Hub is told so before anything is installed."""

    def missing() -> tuple[str, str]:
        raise Failure("found no Debian archive in /etc/apt")

    machine.programs.answer("^docker", status=1)
    machine.patch.setattr(apt, "debian_source", missing)
    machine.patch.setattr(apt, "installed", lambda _package: False)
    with pytest.raises(Failure, match="found no Debian archive"):
        engine.setup(offline=True, platforms=PLATFORMS)
    assert installs(machine) == []
    assert not machine.daemon_json.exists()


def test_docker_on_ubuntu(machine: Machine) -> None:
    """Docker comes from Ubuntu's own packages."""
    distribution(machine, 'NAME="Ubuntu"\nID=ubuntu\n')
    engine.install_docker()
    assert installs(machine) == [["docker.io", "docker-buildx", "docker-compose-v2"]]


def test_docker_on_a_fresh_debian_13(machine: Machine) -> None:
    """A machine that has never fetched apt's lists fetches them before it is taken for a Debian 12."""
    distribution(machine, "ID=debian\n")
    machine.programs.answer("^apt-cache", "", once=True)
    machine.programs.answer("^apt-cache", "docker-buildx:\n  Installed: (none)\n  Candidate: 0.13.1\n")
    engine.install_docker()
    assert list((apt.FOLDER / "sources.list.d").iterdir()) == []


@pytest.mark.parametrize("candidate", ["", "docker-buildx:\n  Installed: (none)\n  Candidate: (none)\n"])
def test_docker_on_debian_12(machine: Machine, candidate: str) -> None:
    """Debian 12 has no buildx: Docker comes from Debian 13, by a source that says so."""
    distribution(machine, "ID=debian\n")
    machine.programs.answer("^apt-cache", candidate)
    engine.install_docker()
    assert installs(machine) == [list(engine.DEBIAN_PACKAGES)]
    assert machine.programs.called("apt-get")[0] == ["apt-get", "update", "-q"]
    assert "Suites: trixie" in (apt.FOLDER / "sources.list.d/onedigest-trixie.sources").read_text("utf-8")
    assert "Pin-Priority: 100" in (apt.FOLDER / "preferences.d/onedigest-trixie").read_text("utf-8")


def test_docker_on_debian_13(machine: Machine) -> None:
    """Debian 13 has all of it: no other source is added."""
    distribution(machine, "ID=debian\n")
    machine.programs.answer("^apt-cache", "docker-buildx:\n  Installed: (none)\n  Candidate: 0.13.1\n")
    engine.install_docker()
    assert installs(machine) == [list(engine.DEBIAN_PACKAGES)]
    assert list((apt.FOLDER / "sources.list.d").iterdir()) == []


def test_docker_that_is_installed(machine: Machine) -> None:
    """Nothing is done twice."""
    distribution(machine, "ID=debian\n", *engine.DEBIAN_PACKAGES)
    engine.install_docker()
    assert machine.programs.calls == []


def test_docker_elsewhere(machine: Machine) -> None:
    """Without apt it says where to look."""
    machine.patch.setenv("PATH", "/nowhere")
    with pytest.raises(Failure, match=r"on Debian and Ubuntu only; install Docker \(https://docs.docker.com/"):
        engine.install_docker()


def test_setup_installs_docker_if_there_is_none(machine: Machine) -> None:
    """A machine without an engine's program gets one."""
    (machine.programs.bin / "docker").unlink()
    machine.patch.setenv("PATH", str(machine.programs.bin))
    (machine.programs.bin / "dockerd").write_text(
        f"#!/bin/sh\nPATH=/bin\ntouch {machine.started}\nexec sleep 60\n", "utf-8"
    )
    machine.patch.setattr(engine, "install_docker", lambda: machine.programs.add("docker"))
    machine.has(INFO)
    assert engine.setup(offline=False, platforms=PLATFORMS) == GOOD


@pytest.mark.parametrize("keyring", ["", "/usr/share/keyrings/debian.gpg"])
def test_newer_debian(keyring: str) -> None:
    """Docker's packages come from Debian 13, and nothing else does."""
    sources, preferences = engine.newer_debian(("http://deb.example.com/debian", keyring))
    assert sources.startswith("Types: deb\nURIs: http://deb.example.com/debian\nSuites: trixie\nComponents: main\n")
    assert (f"Signed-By: {keyring}\n" in sources) is bool(keyring)
    everything, docker = preferences.split("\n\n")
    assert everything == "Package: *\nPin: release n=trixie\nPin-Priority: 100"
    assert docker.splitlines()[0] == "Package: docker.io docker-cli docker-buildx docker-compose"
    assert "Pin-Priority: 990" in docker


def test_main(docker: Programs, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It prints the engine that it found; --stop ends what --setup started."""
    docker.answer("^docker info", json.dumps(INFO)).answer("^docker buildx inspect", INSPECT)
    assert engine.main([]) == 0
    assert capsys.readouterr().out == "Docker Engine 26.1.5, buildx 0.13.1, linux/amd64, linux/arm64\n"
    stopped: list[bool] = []
    monkeypatch.setattr(engine, "stop", lambda: stopped.append(True))
    assert engine.main(["--stop"]) == 0
    assert stopped == [True]


def test_on_a_github_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only GitHub's own runners are thrown away afterwards; one of the user's own is its user's."""
    for value, expected in (("github-hosted", True), ("self-hosted", False), ("", False)):
        monkeypatch.setenv("RUNNER_ENVIRONMENT", value)
        assert engine.on_github_runner() is expected
    assert engine.has_systemd() is os.path.isdir("/run/systemd/system")
