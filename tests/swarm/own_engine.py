"""An engine of the tests' own, in a network namespace: nobody else's engine is made a Swarm of."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import engine
from lib import standin
from lib.command import run, wait_until
from lib.daemon import Daemon


class OwnEngine:
    """A dockerd with its own socket, data, mounts and network; `address` is where its ports are reached."""

    def __init__(self, folder: Path, registry: Path, port: int, number: int = 1) -> None:
        self.folder = folder
        self.namespace = f"friendlyhello-{os.getpid()}-{number}"
        self.link = f"fh{os.getpid() % 100_000}n{number}"
        self.subnet = f"10.233.{number}"
        self.address = f"{self.subnet}.2"
        self.env = {"DOCKER_HOST": f"unix://{folder}/docker.sock"}
        self._registry, self._port = registry, port
        self._daemons: list[Daemon] = []

    def _inside(self, name: str, command: str, port: int | None) -> None:
        """Start a long-running program in the namespace and wait until it answers."""
        daemon = Daemon(name, self.folder)
        self._daemons.append(daemon)
        enter = ["nsenter", f"--net=/var/run/netns/{self.namespace}"]

        def answers() -> bool:
            if port is None:
                return run(["docker", "version"], check=False, env=self.env).returncode == 0
            ask = [*enter, "curl", "--silent", "--output", "/dev/null", f"http://127.0.0.1:{port}/v2/"]
            return run(ask, check=False).returncode == 0

        daemon.start([*enter, "unshare", "--mount", "sh", "-c", f"exec {command}"], ready=answers, seconds=90)

    def start(self) -> None:
        """Start it, with the stand-in for Docker Hub and the tests' registry on its own localhost."""
        ip = ["ip", "-n", self.namespace]
        run(["ip", "netns", "add", self.namespace])
        run(["ip", "link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", self.namespace])
        run(["ip", "address", "add", f"{self.subnet}.1/24", "dev", self.link])
        run(["ip", "link", "set", self.link, "up"])
        run([*ip, "address", "add", f"{self.address}/24", "dev", "eth0"])
        for device in ("lo", "eth0"):
            run([*ip, "link", "set", device, "up"])
        run([*ip, "route", "add", "default", "via", f"{self.subnet}.1"])
        for name, data, port in (
            ("hub", engine.DATA / "hub" / "data", standin.PORT),
            ("registry", self._registry, self._port),
        ):
            config = self.folder / f"{name}.json"
            config.write_text(standin.registry_config(str(data), f"127.0.0.1:{port}"), "utf-8")
            self._inside(name, f"docker-registry serve {config}", port)
        settings = {**engine.IMAGE_STORE, "registry-mirrors": [f"http://{standin.HOST}"]}
        (self.folder / "daemon.json").write_text(json.dumps(settings), "utf-8")
        places = " ".join(
            f"--{option} {self.folder}/{place}"
            for option, place in (
                ("config-file", "daemon.json"),
                ("data-root", "data"),
                ("exec-root", "exec"),
                ("pidfile", "docker.pid"),
            )
        )
        prepare = "mkdir -p /var/run/docker && mount -t tmpfs tmpfs /var/run/docker &&"
        self._inside("dockerd", f'sh -c "{prepare} exec dockerd {places} -H {self.env["DOCKER_HOST"]}"', None)

    def docker(self, *arguments: str) -> str:
        """Run docker against it and return what it prints."""
        return run(["docker", *arguments], env=self.env).stdout

    def stop(self) -> None:
        """End everything that it started and take its network away."""
        run(["docker", "swarm", "leave", "--force"], check=False, env=self.env)
        for daemon in reversed(self._daemons):
            daemon.stop()
        run(["ip", "netns", "delete", self.namespace], check=False)
        run(["ip", "link", "delete", self.link], check=False)
        wait_until(lambda: self._removed(), seconds=30, what="the engine's files to be free")

    def _removed(self) -> bool:
        shutil.rmtree(self.folder, ignore_errors=True)
        return not self.folder.exists()
