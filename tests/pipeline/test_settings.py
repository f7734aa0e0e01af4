"""How a service is deployed: what is set, what runs, what service.toml says, and the stack that this makes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import yaml

from conftest import need
from lib import settings as module
from lib.command import UsageError, run
from lib.names import FORMER
from lib.service import Backing, Service
from lib.settings import Settings, Wanted, deploy_command, deploy_environment, overlay, settings, url, wanted
from lib.swarm import Service as Running
from support.swarm_answers import OLD, web

REDIS = Backing("redis", "redis:8", "redis://redis:6379/0", "REDIS_URL")
HELLO = Service("hello", ("python", "-m", "hello"), backing=(REDIS,))
SHOP = Service(
    "shop",
    ("python", "-m", "shop"),
    port=8000,
    publish=8080,
    health="/health",
    page="/shop",
    volumes=("/data", "/var/lib/shop"),
    secrets={"SECRET_KEY": "only-for-tests"},
    processes={"worker": ("python", "-m", "shop.worker", "$HOME")},
    off={"revision": "it has none"},
)
IMAGE = f"me/hello@{OLD}"
EDGE = {"FORWARDED_ALLOW_IPS": "*"}
"""What the page is told of the edge, which alone can reach it."""


def edge(site: str = ":4000") -> Running:
    """The edge, as it runs."""
    return Running("hello_edge", "caddy:2", None, environment={"SITE": site}, ports={4000: 4000})


def how(env: Mapping[str, str], running: Mapping[str, Running] | None = None, service: Service = HELLO) -> Settings:
    """The settings of the stack hello."""
    return settings("hello", service, wanted(env, service), running or {})


def test_a_first_deployment_has_the_documented_settings() -> None:
    """Port 4000, two replicas, a Redis of its own."""
    found = how({})

    assert (found.domain, found.port, found.replicas) == ("", 4000, 2)
    assert (found.secrets, found.own) == ({"REDIS_URL": "hello_redis_url"}, (REDIS,))
    assert how({}, service=replace(HELLO, publish=8080)).port == 8080


def test_what_is_running_is_kept_if_nothing_else_is_said() -> None:
    """A redeploy from another machine drops neither the domain, nor the port, the replicas or the Redis elsewhere."""
    running = {"web": web(replicas=5, secrets={"redis_url": "hello_redis_url_0123456789ab"}), "edge": edge()}
    running["edge"] = replace(running["edge"], ports={4000: 4100})
    found = how({"DOMAIN": "", "REPLICAS": "", "REDIS_URL": ""}, running)

    assert (found.port, found.replicas, found.own) == (4100, 5, ())
    assert found.secrets == {"REDIS_URL": "hello_redis_url_0123456789ab"}
    assert found.values == {}

    running["edge"] = edge("hello.example.org")
    assert how({}, running).domain == "hello.example.org"


def test_a_port_that_nobody_chose_follows_service_toml() -> None:
    """Only EDGE_PORT is remembered: another `publish` counts from the next redeploy on."""
    moved = replace(HELLO, publish=8080)
    chosen = {"edge": replace(edge(), ports={4000: 8443}, labels={module.PUBLISH_LABEL: "8080"})}
    followed = {"edge": replace(edge(), ports={4000: 8080}, labels={module.PUBLISH_LABEL: "8080"})}

    assert how({}, {"edge": edge()}, moved).port == 8080
    assert how({}, chosen).port == 8443
    assert how({}, followed).port == 4000
    label = stack(how({}, service=moved))["services"]["edge"]["deploy"]["labels"]
    assert label == {module.PUBLISH_LABEL: "8080"}


def test_the_environment_is_heard_before_what_is_running() -> None:
    """A secret's name tells that it is another one, and not what it is; nor does the repr of the settings."""
    env = {"DOMAIN": "a.example.org", "EDGE_PORT": "81", "REPLICAS": "3", "REDIS_URL": "rediss://:secret@elsewhere"}

    found = how(env, {"web": web(replicas=1)})

    assert (found.domain, found.port, found.replicas) == ("a.example.org", 81, 3)
    assert found.secrets["REDIS_URL"].startswith("hello_redis_url_")
    assert found.values == {"REDIS_URL": "rediss://:secret@elsewhere"}
    assert "secret@" not in repr(found)


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"DOMAIN": "none"}, ("", 4100, 5, False)),
        ({"EDGE_PORT": "none"}, ("a.example.org", 4000, 5, False)),
        ({"REPLICAS": "none"}, ("a.example.org", 4100, 2, False)),
        ({"REDIS_URL": "none"}, ("a.example.org", 4100, 5, True)),
    ],
)
def test_what_the_swarm_remembers_can_be_unset(env: dict[str, str], expected: tuple[str, int, int, bool]) -> None:
    """`none` brings the default back, and leaves everything else as it is."""
    running = {"web": web(replicas=5, secrets={"redis_url": "hello_redis_url_0123456789ab"})}
    running["edge"] = replace(edge("a.example.org"), ports={4000: 4100})

    found = how(env, running)

    assert (found.domain, found.port, found.replicas, found.own == (REDIS,)) == expected


def test_a_rehearsal_asks_for_no_certificate_and_gets_the_values_for_tests() -> None:
    """DOMAIN and real secrets are for the real host."""
    env = {"DOMAIN": "a.example.org", "REDIS_URL": "redis://elsewhere", "SECRET_KEY": "real"}
    env["DEPLOY_URL"] = "https://a.example.org/"
    service = replace(SHOP, backing=(REDIS,))

    rehearsed = wanted(env, service, rehearsal=True)
    found = settings("hello", service, rehearsed, {}, rehearsal=True)

    assert url(found, rehearsed, "") == "http://127.0.0.1:8080/shop"
    assert (found.domain, found.own, found.values) == ("", (REDIS,), {"SECRET_KEY": "only-for-tests"})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DOMAIN", "localhost"),
        ("DOMAIN", "a.example.org; rm -rf /"),
        ("DOMAIN", "{$SECRET}.example.org"),
        ("DOMAIN", "a..example.org"),
        ("DOMAIN", "-a.example.org"),
        ("DOMAIN", "a.example.org\n"),
        ("DOMAIN", "https://a.example.org"),
        ("DOMAIN", f"{'a.' * 127}org"),
        ("EDGE_PORT", "0"),
        ("EDGE_PORT", "65536"),
        ("EDGE_PORT", "http"),
        ("EDGE_PORT", "٤"),
        ("REPLICAS", "-1"),
        ("REPLICAS", "0"),
        ("REPLICAS", "101"),
        ("REPLICAS", "2 "),
        ("REDIS_URL", "http://:secret@elsewhere"),
        ("REDIS_URL", "secret@"),
        ("SERVICE_SECRETS", "REDIS_URL=redis://a\nsecret@"),
        ("SERVICE_SECRETS", "redis url=secret@"),
        ("SERVICE_SECRETS", "=secret@"),
        ("REDIS_URL", "redis://secret@" + 500 * 1024 * "x"),
        ("REDIS_URL", "redis://secret@\udcff"),
        ("DEPLOY_URL", "http://localhost:99999/"),
        ("DEPLOY_URL", "http://localhost:0/"),
        ("DEPLOY_URL", "http://a..b/"),
        ("DEPLOY_URL", "http://a.example.org/ "),
        ("DEPLOY_URL", "http://a.example.org/\r\nX: y"),
        ("DEPLOY_URL", "http:///path"),
        ("DEPLOY_URL", "http://[::1/"),
        ("DEPLOY_URL", "http://me:secret@a.example.org/"),
        ("DEPLOY_URL", "a.example.org"),
        ("DEPLOY_URL", "ftp://a.example.org/"),
        ("DEPLOY_URL", "http://é.example.org/"),
        ("DEPLOY_URL", "http://[1:2:3:4:5:6:7:8:9]/"),
        ("DEPLOY_URL", "http://[:::]/"),
        ("DEPLOY_URL", "http://[10.0.0.2]/"),
        ("DEPLOY_URL", "http://[...]:4000/"),
        ("DEPLOY_URL", f"http://{'a' * 64}.example.org/"),
        ("DEPLOY_URL", f"http://{'.'.join(['a' * 60] * 5)}/"),
    ],
)
def test_a_bad_setting_is_named(variable: str, value: str) -> None:
    """One sentence with the variable; never a secret."""
    with pytest.raises(UsageError) as error:
        wanted({variable: value}, HELLO)

    assert str(error.value).startswith(variable)
    assert "secret@" not in str(error.value)


@pytest.mark.parametrize(
    "value",
    [
        "https://hello.example.org",
        "http://10.0.0.2/",
        "http://127.0.0.1:4000/",
        "http://[fd00::2]:4000/shop?a=b",
        "http://my_host:80/",
        "http://[::1]",
        "http://[::ffff:10.0.0.2]/",
        f"http://{'a' * 63}.example.org/",
    ],
)
def test_an_address_of_the_page(value: str) -> None:
    """DEPLOY_URL is used as it is."""
    assert url(how({}), wanted({"DEPLOY_URL": value}, HELLO), "") == value


@pytest.mark.parametrize(
    ("domain", "host", "expected"),
    [
        ("", "", "http://127.0.0.1:4000/"),
        ("", "10.0.0.1", "http://10.0.0.1:4000/"),
        ("", "fd00::2", "http://[fd00::2]:4000/"),
        ("a.example.org", "10.0.0.1", "https://a.example.org/"),
    ],
)
def test_the_page_is_asked_for_where_visitors_find_it(domain: str, host: str, expected: str) -> None:
    """At the domain, or at the host; the page is the one that service.toml names."""
    assert url(Settings("hello", HELLO, domain), Wanted(), host) == expected
    assert url(Settings("hello", SHOP, domain), Wanted(), host) == f"{expected}shop"


# Secrets.


@pytest.mark.parametrize(
    "env",
    [
        {"SECRET_KEY": "a=b"},
        {"SERVICE_SECRETS": "# for the shop\n\nSECRET_KEY=a=b\n"},
        {"SERVICE_SECRETS": "SECRET_KEY=a=b\r\n"},
        {"SERVICE_SECRETS": "SECRET_KEY=other", "SECRET_KEY": "a=b"},
        {"SERVICE_SECRETS": "SECRET_KEY=a=b\nUNKNOWN=x"},
        {"SERVICE_SECRETS": "UNKNOWN=a\u2028b\x0bc\x85d\nSECRET_KEY=a=b"},
    ],
)
def test_secrets_come_one_by_one_or_all_in_one(env: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """A variable of the secret's name, or a line of SERVICE_SECRETS; what the service does not need is said."""
    assert how(env, service=SHOP).values == {"SECRET_KEY": "a=b"}
    assert ("UNKNOWN, which service.toml does not name" in capsys.readouterr().err) == ("UNKNOWN" in str(env))


def test_a_missing_secret_is_refused() -> None:
    """Before anything is touched, with what to set; one that runs already need not be given again."""
    with pytest.raises(UsageError, match=r"^the service needs SECRET_KEY: .* SERVICE_SECRETS .*KEY=\.\.\."):
        how({}, service=SHOP)

    running = {"web": web(secrets={"secret_key": "hello_secret_key_0123456789ab"})}
    assert how({}, running, SHOP).secrets == {"SECRET_KEY": "hello_secret_key_0123456789ab"}


def test_a_secret_of_an_earlier_version_keeps_its_name() -> None:
    """Its replicas are not replaced because the pipeline got another name."""
    value = "redis://:pass@elsewhere"
    former = f"hello_redis_url_{module.fingerprint(value, FORMER)}"

    kept = how({"REDIS_URL": value}, {"web": web(secrets={"redis_url": former})})

    assert kept.secrets == {"REDIS_URL": former}
    assert how({"REDIS_URL": value}).secrets != kept.secrets


@pytest.mark.parametrize("length", [1, 20, 41])
def test_names_fit_into_a_swarm(length: int) -> None:
    """Swarm takes 64 characters for a secret or a config; two long names stay two."""
    long = {"SECRET_" + "A" * 50: "x", "SECRET_" + "A" * 49 + "B": "x"}
    service = replace(SHOP, secrets=long, processes={}, backing=(REDIS,))

    found = settings("s" * length, service, wanted(long, service), {})

    names = list(found.secrets.values())
    assert len(set(names)) == 3
    assert all(len(name) <= 64 for name in names)
    assert len(f"{'s' * length}_caddyfile_{deploy_environment(found, IMAGE)['CADDYFILE']}") <= 64


def test_a_process_whose_name_does_not_fit() -> None:
    """It is refused in a sentence that says what to set."""
    service = replace(SHOP, processes={"w" * 32: ("python",)})

    with pytest.raises(UsageError, match="make a name of more than 63 characters; set STACK to a shorter one"):
        settings("s" * 41, service, Wanted(secrets={"SECRET_KEY": "x"}), {})


# The stack.


def test_the_stack_is_deployed_by_digest_and_moves_nothing_else() -> None:
    """The exact command, and what fills in the stack file; the nodes get a login only for a private image."""
    command = deploy_command(how({}), private=False)

    deploy = module.DEPLOY
    assert command == [
        *("docker", "stack", "deploy", "--detach=true", "--prune", "--resolve-image", "changed"),
        *("--compose-file", str(deploy / "compose.stack.yaml"), "--compose-file", str(deploy / "compose.port.yaml")),
        *("--compose-file", str(deploy / "compose.redis.yaml"), "--compose-file", "-", "hello"),
    ]
    assert "--with-registry-auth" in deploy_command(how({}))
    variables = deploy_environment(how({"EDGE_PORT": "81"}), IMAGE)
    assert (variables["IMAGE"], variables["PUBLISH"], variables["REPLICAS"]) == (IMAGE, "81", "2")


def test_a_backing_service_without_a_file() -> None:
    """The sentence says which file to write."""
    service = replace(HELLO, backing=(Backing("postgres", "postgres:17"),))

    with pytest.raises(UsageError, match=r"there is no deploy/compose\.postgres\.yaml"):
        deploy_command(how({}, service=service))


def stack(found: Settings) -> dict[str, Any]:
    """The whole stack, as docker reads it: its services, secrets and volumes."""
    need(bool(shutil.which("docker")), "the docker command")
    command = deploy_command(found)
    read = ["docker", "stack", "config", *command[command.index("--compose-file") : -1]]
    text = run(read, env=deploy_environment(found, IMAGE), stdin=overlay(found, IMAGE)).stdout
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def test_the_stack_with_a_redis_of_its_own() -> None:
    """Edge, web and Redis; the address of Redis is a file for the two that need it."""
    found = stack(how({}))

    assert sorted(found["services"]) == ["edge", "redis", "web"]
    for name in ("redis", "web"):
        assert found["services"][name]["secrets"] == [{"source": "redis_url"}]
    assert found["services"]["web"]["environment"] == {**EDGE, "REDIS_URL_FILE": "/run/secrets/redis_url"}
    assert found["secrets"] == {"redis_url": {"name": "hello_redis_url", "external": True}}
    assert found["services"]["edge"]["ports"] == [{"mode": "host", "target": 4000, "published": 4000}]


def test_a_backing_service_reads_its_own_address() -> None:
    """From the file of the secret that service.toml names."""
    store = replace(HELLO, backing=(replace(REDIS, secret="STORE_URL"),))

    found = stack(how({}, service=store))

    assert found["services"]["redis"]["secrets"] == [{"source": "store_url"}]
    assert "/run/secrets/store_url" in str(found["services"]["redis"]["command"])
    assert found["services"]["web"]["environment"] == {**EDGE, "STORE_URL_FILE": "/run/secrets/store_url"}


def test_the_stack_without_redis() -> None:
    """No Redis in service.toml, or another one that is given: none in the stack, and its network neither."""
    for found in (how({}, service=replace(HELLO, backing=())), how({"REDIS_URL": "redis://elsewhere"})):
        read = stack(found)
        assert sorted(read["services"]) == ["edge", "web"]
        assert sorted(read["networks"]) == ["web"]


def test_the_stack_with_a_domain() -> None:
    """The ports for HTTPS are published, and no other."""
    ports = stack(how({"DOMAIN": "a.example.org"}))["services"]["edge"]["ports"]

    assert [port["published"] for port in ports] == [80, 443]


def test_the_stack_has_what_service_toml_says() -> None:
    """Port, page, health, secrets, volumes and processes; a secret is never in an environment."""
    found = stack(how({"SECRET_KEY": "hidden"}, service=SHOP))

    one, worker = found["services"]["web"], found["services"]["worker"]
    assert worker["command"] == ["python", "-m", "shop.worker", "$HOME"]
    assert worker["image"] == one["image"] == IMAGE
    assert worker["healthcheck"] == {"disable": True}
    secret = {"SECRET_KEY_FILE": "/run/secrets/secret_key"}
    assert (one["environment"], worker["environment"]) == ({**EDGE, **secret}, secret)
    for service in (one, worker):
        assert service["secrets"] == [{"source": "secret_key"}]
        mounted = [(volume["source"], volume["target"]) for volume in service["volumes"]]
        assert mounted == [("service-data", "/data"), ("service-var-lib-shop", "/var/lib/shop")]
        assert service["deploy"]["placement"] == {"constraints": ["node.labels.service == yes"]}
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    check = str(one["healthcheck"])
    assert '("127.0.0.1", 8000), 8)' in check
    assert '"/shop" if new else "/health"' in check
    assert found["services"]["edge"]["environment"]["UPSTREAM_PORT"] == "8000"
    assert "hidden" not in json.dumps(found)
