"""Speaking to a registry: who asks, what it answers, and what its answers must not make us believe."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lib import distribution
from lib.command import Failure
from lib.distribution import Login, Refused, ask
from lib.names import ImageName
from support.hub import Hub, honest
from support.programs import Programs

BASIC = "Basic " + base64.b64encode(b"octo:token").decode()
SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def image(hub: Hub) -> ImageName:
    """An image in the registry, with one tag."""
    hub.put("1.0.0", honest(SHA))
    return ImageName(hub.host, "octo", "hello")


@pytest.fixture
def config(docker_config: Path) -> Callable[[object], None]:
    """Write docker's config.json."""

    def write(content: object) -> None:
        text = content if isinstance(content, str) else json.dumps(content)
        (docker_config / "config.json").write_text(text, "utf-8")

    return write


def test_a_public_image_needs_no_login(hub: Hub, image: ImageName) -> None:
    """A token for anybody is fetched once, and used for every later question."""
    assert ask(image, "manifests/1.0.0") == ask(image, "manifests/1.0.0")
    assert [request.split()[2:] for request in hub.requests] == [[], [], ["Bearer", "anybody"], ["Bearer", "anybody"]]
    assert [request.split()[1].partition("?")[0] for request in hub.requests].count("/token") == 1


def test_what_is_not_there_is_none(hub: Hub, image: ImageName) -> None:
    """A registry that shows the image and not the tag."""
    assert ask(image, "manifests/2.0.0") is None


@pytest.mark.parametrize("name", ["{host}", "http://{host}", "https://{host}/v1/"])
def test_the_login_goes_for_the_token_and_nowhere_else(
    hub: Hub, image: ImageName, config: Callable[[object], None], name: str
) -> None:
    """What docker login left, under each of the names that docker has kept it by."""
    hub.private, hub.login = True, BASIC
    config({"auths": {name.format(host=hub.host): {"auth": BASIC.split()[1]}}})
    assert ask(image, "manifests/1.0.0") is not None
    assert [line.split()[1].partition("?")[0] for line in hub.requests if BASIC in line] == ["/token"]
    assert hub.requests[-1].endswith("Bearer somebody")


def test_an_identity_token_is_exchanged(hub: Hub, image: ImageName, config: Callable[[object], None]) -> None:
    """Some registries' logins leave a token instead of a password."""
    hub.private = True
    config({"auths": {hub.host: {"auth": "", "identitytoken": "identity"}}})
    assert ask(image, "manifests/1.0.0") is not None
    assert [line for line in hub.requests if "refresh_token=identity" in line]


def test_a_private_image_looks_like_none(hub: Hub, image: ImageName) -> None:
    """Registries do not say to everybody what they have."""
    hub.private = True
    assert ask(image, "manifests/1.0.0") is None


def test_a_login_that_came_later_is_used(hub: Hub, image: ImageName, config: Callable[[object], None]) -> None:
    """A token that was fetched before the login is replaced."""
    hub.private, hub.login = True, BASIC
    assert ask(image, "manifests/1.0.0") is None
    config({"auths": {hub.host: {"auth": BASIC.split()[1]}}})
    assert ask(image, "manifests/1.0.0") is not None


def test_a_wrong_login_is_refused(hub: Hub, image: ImageName, config: Callable[[object], None]) -> None:
    """A password that the registry does not know is not taken for a missing image."""
    hub.login = BASIC
    config({"auths": {hub.host: {"auth": "b2N0bzp3cm9uZw=="}}})
    with pytest.raises(Refused, match=rf"{hub.host} refuses the login that docker keeps \(401 .*; run docker login"):
        ask(image, "manifests/1.0.0")


def test_a_basic_registry_wants_a_login(hub: Hub, image: ImageName, config: Callable[[object], None]) -> None:
    """With nobody logged in the sentence says so; with a login it answers; with another one it refuses."""
    hub.wants, hub.login = 'Basic realm="x"', BASIC
    with pytest.raises(Refused, match=f"it wants a login; run docker login {hub.host}$"):
        ask(image, "manifests/1.0.0")
    config({"auths": {hub.host: {"auth": BASIC.split()[1]}}})
    assert ask(image, "manifests/1.0.0") is not None
    distribution._authorizations.clear()
    config({"auths": {hub.host: {"auth": "b2N0bzp3cm9uZw=="}}})
    with pytest.raises(Refused, match="it says 401 Unauthorized"):
        ask(image, "manifests/1.0.0")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"credsStore": "nowhere"}, "credential helper 'nowhere', and there is no program docker-credential-nowhere"),
        ({"credHelpers": {"{host}": "nowhere"}}, "there is no program docker-credential-nowhere; install it"),
        ("{", r"cannot read .*config.json \(JSONDecodeError\); correct it"),
        ("[]", r"cannot read .*config.json \(AttributeError\)"),
        ({"credsStore": "broken"}, "docker-credential-broken fails: no such keyring"),
        ({"credsStore": "text"}, "docker-credential-text fails: JSONDecodeError"),
        ({"credsStore": "deep"}, "docker-credential-deep fails: ValueError"),
        ({"credsStore": "odd"}, "docker-credential-odd fails: UnicodeEncodeError"),
        ({"auths": {"{host}": {"auth": 5}}}, r"cannot read .*config.json \(TypeError\)"),
        ({"auths": {"{host}": "text"}}, r"cannot read .*config.json \(AttributeError\)"),
        ({"auths": {"{host}": {"auth": "b2N0bzp0b2tlbg==\n"}}}, r"cannot read .*config.json \(ValueError\)"),
        ({"auths": {"{host}": {"identitytoken": "to\r\nken"}}}, r"cannot read .*config.json \(ValueError\)"),
        ("[" * 100_000, r"cannot read .*config.json \(ValueError\)"),
    ],
)
def test_a_login_that_cannot_be_read(
    hub: Hub,
    image: ImageName,
    config: Callable[[object], None],
    programs: Programs,
    content: object,
    says: str,
) -> None:
    """A public image needs none; what is not shown without one is not taken for a missing image."""
    programs.add(*(f"docker-credential-{name}" for name in ("broken", "text", "deep", "odd")))
    programs.answer("broken get", "no such keyring", status=1).answer("text get", "password")
    programs.answer("deep get", "[" * 100_000).answer("odd get", '{"Username": "u", "Secret": "\\ud800"}')
    text = json.dumps(content).replace("{host}", hub.host) if not isinstance(content, str) else content
    config(text)
    assert ask(image, "manifests/1.0.0") is not None
    for path, hub.private in (("manifests/1.0.0", True), ("manifests/2.0.0", False)):
        distribution._authorizations.clear()
        with pytest.raises(Refused, match=says) as refused:
            ask(image, path)
        assert "b2N0bzp0b2tlbg" not in str(refused.value)


@pytest.mark.parametrize(
    ("entry", "login"),
    [
        ({"auth": "b2N0bzp0b2tlbg=="}, Login(BASIC)),
        ({"username": "octo", "password": "token"}, Login(BASIC)),
        ({"auth": "", "username": "octo", "password": "token"}, Login(BASIC)),
        ({"auth": "b2N0bzo=", "identitytoken": "identity"}, Login("Basic b2N0bzo=", "identity")),
        ({}, Login()),
        (None, Login()),
    ],
)
def test_what_a_login_is_kept_as(config: Callable[[object], None], entry: object, login: Login) -> None:
    """A header, a name and a password, or an identity token; docker and others write each of them."""
    config({"auths": {"registry.example.com": entry}})
    assert distribution.login_of("registry.example.com") == login


@pytest.mark.parametrize(
    ("said", "status", "login"),
    [
        ('{"Username": "octo", "Secret": "token"}', 0, Login(BASIC)),
        ('{"Username": "<token>", "Secret": "identity"}', 0, Login(identity="identity")),
        ("credentials not found in native keychain", 1, Login()),
        ('{"Username": "", "Secret": ""}', 0, Login()),
    ],
)
def test_credential_helpers(
    config: Callable[[object], None], programs: Programs, said: str, status: int, login: Login
) -> None:
    """A helper is asked as docker asks it."""
    config({"credsStore": "test"})
    programs.add("docker-credential-test").answer("^docker-credential-test get$", said, status=status)
    assert distribution.login_of(distribution.HUB_LOGIN) == login


@pytest.mark.usefixtures("docker_config")
def test_without_a_config_there_is_no_login() -> None:
    """Where docker login was never run, nothing is wrong."""
    assert distribution.login_of(distribution.HUB_LOGIN) == Login()


@pytest.mark.parametrize(
    ("challenge", "says"),
    [
        ("Negotiate", "cannot answer the challenge 'Negotiate'"),
        ('Bearer realm="http://example.com/token"', "cannot answer the challenge"),
        ('Bearer realm="file:///etc/passwd"', "cannot answer the challenge"),
        ("Bearer", "cannot answer the challenge"),
    ],
)
def test_logins_go_only_over_tls(challenge: str, says: str) -> None:
    """A login is not sent in the clear, whatever a registry asks for."""
    with pytest.raises(Failure, match=says):
        distribution.answer_to(challenge, ImageName("example.com", "octo", "hello"), Login(BASIC))


@pytest.mark.parametrize("status", [429, 500, 503, 400, 418])
def test_other_answers_are_failures(hub: Hub, image: ImageName, status: int) -> None:
    """Trouble is not taken for a missing image, whether it is the registry's or its tokens'."""
    hub.errors = [status]
    with pytest.raises(Failure, match=f"it says {status}"):
        ask(image, "manifests/1.0.0")


def test_trouble_with_tokens(hub: Hub, image: ImageName) -> None:
    """A token that cannot be had is trouble; one that is not taken is a refusal."""
    hub.wants = f'Bearer realm="http://{hub.host}/nothing",service="hub"'
    with pytest.raises(Failure, match="refuses a question without a login"):
        ask(image, "manifests/1.0.0")
    hub.wants = f'Bearer realm="http://{hub.host}/token",service="hub"'
    with pytest.raises(Failure, match="it says 401"):
        ask(image, "manifests/1.0.0")


def test_an_answer_that_is_cut_off(hub: Hub, image: ImageName) -> None:
    """Half an answer is none."""
    ask(image, "manifests/1.0.0")
    hub.cut = 1
    with pytest.raises(Failure, match="cut off, 1 bytes are missing"):
        ask(image, "manifests/1.0.0")


def test_nobody_there() -> None:
    """A registry that does not answer is one sentence."""
    with pytest.raises(Failure, match=r"cannot read http://localhost:1/v2/octo/hello/tags/list"):
        ask(ImageName("localhost:1", "octo", "hello"), "tags/list")


@pytest.mark.parametrize(
    ("token", "taken"),
    [
        ("a.b-c_d~e+f/g=", True),
        ("a\nb", False),
        ("a b", False),
        ("\ud800", False),
        ("é", False),
        (5, False),
        ("", False),
    ],
)
def test_what_a_token_can_be(token: object, taken: bool) -> None:
    """What could add a header of its own, or is none, is not sent, and is in no message."""
    if taken:
        assert distribution.bearer({"token": token}) == f"Bearer {token}"
    else:
        with pytest.raises((ValueError, KeyError), match=r"not a token|access_token"):
            distribution.bearer({"token": token})


@pytest.mark.parametrize(
    ("host", "no_proxy", "direct"),
    [
        ("10.1.2.3:5000", "localhost,10.0.0.0/8", True),
        ("10.1.2.3", " 10.1.0.0/16 ", True),
        ("[fd00::2]:5000", "fd00::/8", True),
        ("10.1.2.3:5000", "10.1.2.3", True),
        ("11.1.2.3:5000", "10.0.0.0/8", False),
        ("registry.example.com", "10.0.0.0/8", False),
        ("10.1.2.3:5000", "", False),
        ("10.1.2.3:5000", "10.0.0.0/99,x/y", False),
    ],
)
def test_networks_that_no_proxy_is_for(host: str, no_proxy: str, direct: bool) -> None:
    """NO_PROXY may have networks, in either case, as docker takes them."""
    for variable in ("no_proxy", "NO_PROXY"):
        assert distribution.is_direct(host, {variable: no_proxy}) is direct


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("127.0.0.1:5000", True),
        ("127.0.0.2", True),
        ("localhost.example.com", False),
        ("127.0.0.1.example.com", False),
        ("10.0.0.1:5000", False),
        ("", False),
    ],
)
def test_only_this_machine_is_asked_in_the_clear(host: str, loopback: bool) -> None:
    """Plain HTTP leaves this machine never."""
    assert distribution.is_loopback(host) is loopback
