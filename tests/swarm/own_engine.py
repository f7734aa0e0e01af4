"""Engines of the tests' own, in network namespaces: nobody else's engine is made a Swarm of.

Each is a machine as far as Docker can tell: with its own host name, processes, /run, network and localhost. Killing
its first process kills all that runs on it, its containers too.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path

import engine
from lib import standin
from lib.command import run, wait_until
from lib.daemon import Daemon
from lib.engine import IMAGE_STORE
from lib.names import PIPELINE


class Network:
    """A switch that engines are plugged into; this machine has the address ending in .1 on it.

    It is a bridge in a namespace of its own, so that no firewall rule of this machine is between the engines. No route
    leads out of it, so that whoever asks the world for something is told at once that it is not there.
    """

    def __init__(self) -> None:
        def made(number: int) -> bool:
            return run(["ip", "netns", "add", f"{PIPELINE}-{number}"], check=False).returncode == 0

        # Whoever makes the namespace of a number has it, until `stop`; what was killed keeps its own.
        number = next(filter(made, range(256)))
        self.namespace = f"{PIPELINE}-{number}"
        self.subnet = f"10.233.{number}"
        self._members = 0
        self._link = f"{PIPELINE}{number}"

    def _plug(self, port: str, peer: str, *more: str) -> None:
        """Put a cable between a port of the switch and an interface elsewhere."""
        ip = ["ip", "-n", self.namespace, "link"]
        run([*ip, "add", port, "type", "veth", "peer", "name", peer, *more])
        run([*ip, "set", port, "master", "switch", "up"])

    def join(self, namespace: str) -> tuple[str, str]:
        """Plug a namespace in, as its eth0; return the port of the switch, and the address."""
        if not self._members:
            run(["ip", "-n", self.namespace, "link", "add", "switch", "up", "type", "bridge"])
            self._plug("host", self._link, "netns", str(os.getpid()))
            run(["ip", "address", "add", f"{self.subnet}.1/24", "dev", self._link])
            run(["ip", "link", "set", self._link, "up"])
        self._members += 1
        port, address = f"port{self._members}", f"{self.subnet}.{self._members + 1}"
        self._plug(port, "eth0", "netns", namespace)
        ip = ["ip", "-n", namespace]
        run([*ip, "address", "add", f"{address}/24", "dev", "eth0"])
        for device in ("lo", "eth0"):
            run([*ip, "link", "set", device, "up"])
        return port, address

    def set_link(self, port: str, state: str) -> None:
        """Pull a cable out of the switch (`down`), or put it in again (`up`)."""
        run(["ip", "-n", self.namespace, "link", "set", port, state])

    def stop(self) -> None:
        """Take the switch away, and every cable with it."""
        run(["ip", "netns", "delete", self.namespace], check=False)
        run(["ip", "link", "delete", self._link], check=False)


class OwnEngine:
    """A dockerd, with a registry and a stand-in for Docker Hub; `address` is where its ports are reached.

    It is plugged into `network` where there are several, else into one of its own.
    """

    def __init__(self, folder: Path, registry: Path, port: int, name: str = "node", network: Network | None = None):
        self.folder, self.name = folder, name
        self._alone = network is None
        self.network = network or Network()
        self.namespace = f"{self.network.namespace}-{name}"
        self.link = self.address = ""
        self.env = {"DOCKER_HOST": f"unix://{folder}/docker.sock"}
        # Where the tests are killed, it is, too: prctl(2), PR_SET_PDEATHSIG.
        self.enter = ["setpriv", "--pdeathsig", "KILL", "nsenter", f"--net=/var/run/netns/{self.namespace}"]
        """What leads a command into its network."""
        self._registry, self._port = registry, port
        self._dockerd = Daemon("dockerd", folder)
        self._registries: list[Daemon] = []

    def start(self) -> None:
        """Start it, with the stand-in for Docker Hub and the tests' registry on its own localhost."""
        run(["ip", "netns", "add", self.namespace])
        self.link, self.address = self.network.join(self.namespace)
        for name, data, port in (
            ("hub", engine.DATA / "hub" / "data", standin.PORT),
            ("registry", self._registry, self._port),
        ):
            config = self.folder / f"{name}.json"
            config.write_text(standin.registry_config(str(data), f"127.0.0.1:{port}"), "utf-8")
            self._registries.append(Daemon(name, self.folder))
            self._start_registry(self._registries[-1], port)
        settings = {**IMAGE_STORE, "registry-mirrors": [f"http://{standin.HOST}"]}
        (self.folder / "daemon.json").write_text(json.dumps(settings), "utf-8")
        self.power_on()

    def _start_registry(self, daemon: Daemon, port: int) -> None:
        ask = [*self.enter, "curl", "--silent", "--output", "/dev/null", f"http://127.0.0.1:{port}/v2/"]
        serve = ["docker-registry", "serve", str(self.folder / f"{daemon.name}.json")]
        daemon.start([*self.enter, *serve], ready=lambda: run(ask, check=False).returncode == 0)

    def power_on(self) -> None:
        """Start dockerd, with what it had on its disk and an empty /run, and wait until it answers."""
        first = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"]
        options = f"--config-file {self.folder}/daemon.json --data-root {self.folder}/data"
        self._dockerd.start(
            [
                *self.enter,
                *first,
                f"echo {self.name} > /proc/sys/kernel/hostname && mount -t tmpfs tmpfs /run &&"
                f" exec dockerd {options} --host {self.env['DOCKER_HOST']}",
            ],
            ready=lambda: run(["docker", "version"], check=False, env=self.env).returncode == 0,
        )

    def power_off(self) -> None:
        """Kill dockerd and every process on it, without a warning."""
        self._dockerd.stop(seconds=0)

    def cut_off(self) -> None:
        """Let no packet in or out."""
        self.network.set_link(self.link, "down")

    def plug_in(self) -> None:
        """Undo cut_off."""
        self.network.set_link(self.link, "up")

    def docker(self, *arguments: str) -> str:
        """Run docker against it and return what it prints."""
        return run(["docker", *arguments], env=self.env).stdout

    def stop(self) -> None:
        """End everything that it started and take its network away."""
        self.power_off()
        for daemon in self._registries:
            daemon.stop()
        run(["ip", "netns", "delete", self.namespace], check=False)
        if self._alone:
            self.network.stop()
        with contextlib.suppress(FileNotFoundError):
            wait_until(lambda: self._removed(), what="the engine's files to be free")

    def _removed(self) -> bool:
        shutil.rmtree(self.folder, ignore_errors=True)
        return not self.folder.exists()
