"""What service.toml may say, and the sentence for what it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib import service
from lib.command import UsageError
from lib.service import Backing, Service, parse
from support.projects import FIXTURE


def test_a_name_is_enough() -> None:
    """Everything else has a default."""
    assert parse('name = "shop-api"', {}) == Service(name="shop-api", start=("python", "-m", "shop_api"))
    assert parse('name = "shop-api"', {}).image == "shop-api:ci"


def test_everything() -> None:
    """Each key ends in its field."""
    text = """
    name = "shop"
    start = ["uvicorn", "shop:app"]
    develop = ["uvicorn", "--reload", "--port", "{port}", "shop:app"]
    port = 8000
    publish = 8080
    health = "/health"
    page = "/items?page=1"
    platforms = ["linux/arm64"]
    volumes = ["/data"]
    [backing.postgres]
    image = "postgres:18"
    url = "postgresql://shop@postgres/shop"
    secret = "DATABASE_URL"
    environment = { POSTGRES_HOST_AUTH_METHOD = "trust" }
    [secrets]
    SECRET_KEY = "for tests"
    [processes]
    worker = ["python", "-m", "shop.worker"]
    [off]
    revision = "not ours"
    """
    with pytest.raises(UsageError, match="page is '/items"):
        parse(text, {})
    found = parse(text.replace("?page=1", ""), {})
    assert found == Service(
        name="shop",
        start=("uvicorn", "shop:app"),
        develop=("uvicorn", "--reload", "--port", "{port}", "shop:app"),
        port=8000,
        publish=8080,
        health="/health",
        page="/items",
        platforms=("linux/arm64",),
        volumes=("/data",),
        backing=(
            Backing(
                "postgres",
                "postgres:18",
                "postgresql://shop@postgres/shop",
                "DATABASE_URL",
                {"POSTGRES_HOST_AUTH_METHOD": "trust"},
            ),
        ),
        secrets={"SECRET_KEY": "for tests"},
        processes={"worker": ("python", "-m", "shop.worker")},
        off={"revision": "not ours"},
    )
    assert found.environment == {"DATABASE_URL": "postgresql://shop@postgres/shop", "SECRET_KEY": "for tests"}
    assert found.run_line("shop:ci") == "docker run --rm -p 8080:8000 --env SECRET_KEY=... shop:ci"
    assert (found.has("revision"), found.has("server")) == (False, True)


NAMED = 'name = "shop"\n'


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", r'^service\.toml has no name; add the service\'s, such as name = "shop"$'),
        ("name", r"^service\.toml is not TOML: "),
        ("name = 1", r"^service\.toml: name is 1, expected lower-case letters"),
        ('name = "Shop"', "name is 'Shop'"),
        ('name = "a/b"', "name is 'a/b'"),
        ('name = "a\\nb"', r"name is 'a\\nb'"),
        ('name = ""', "name is ''"),
        (NAMED + "nmae = 1", "nmae is not a key; the keys are name, start, "),
        (NAMED + 'port = "80"', "port is '80', expected a number from 1 to 65535"),
        (NAMED + "port = 0", "port is 0"),
        (NAMED + "port = true", "port is True"),
        (NAMED + "publish = 65536", "publish is 65536"),
        (NAMED + 'health = "healthz"', "health is 'healthz', expected a path"),
        (NAMED + 'page = "/a b"', "page is '/a b'"),
        (NAMED + 'page = "http://elsewhere/"', "page is 'http://elsewhere/'"),
        (NAMED + 'start = "python -m shop"', "start is 'python -m shop', expected a command as a list of words"),
        (NAMED + "start = []", r"start is \[\]"),
        (NAMED + "start = [1]", r"start is \[1\]"),
        (NAMED + 'platforms = ["linux/riscv64"]', "platforms is"),
        (NAMED + "platforms = []", r"platforms is \[\]"),
        (NAMED + 'volumes = ["/etc"]', r"volumes is \['/etc'\], expected a list of folders that are not the system's"),
        (NAMED + 'volumes = ["/data/../etc"]', "volumes is"),
        (NAMED + 'volumes = ["data"]', "volumes is"),
        (NAMED + 'backing = "redis"', "backing is 'redis', expected a table"),
        (NAMED + 'backing.redis = "redis:8"', "backing.redis is 'redis:8', expected a table"),
        (NAMED + "[backing.redis]", "backing.redis has no image"),
        (NAMED + '[backing.redis]\nimage = "--privileged"', "backing.redis.image is '--privileged'"),
        (NAMED + '[backing.redis]\nimage = "a b"', "backing.redis.image is 'a b'"),
        (NAMED + '[backing.web]\nimage = "a"', "backing is 'web', expected a host name other than web and edge"),
        (NAMED + '[backing.Redis]\nimage = "a"', "backing is 'Redis'"),
        (NAMED + '[backing.r]\nimage = "a"\nurl = "redis://me:secret@r/0"', "expected an address without a password"),
        (NAMED + '[backing.r]\nimage = "a"\nsecret = "a-b"', "backing.r.secret is 'a-b'"),
        (NAMED + '[backing.r]\nimage = "a"\ncommand = "a"', "backing.r.command is not a key"),
        (NAMED + '[backing.r]\nimage = "a"\nenvironment = { a = "b" }', "backing.r.environment is {'a': 'b'}"),
        (NAMED + '[secrets]\nGITHUB_TOKEN = "x"', "secrets is {'GITHUB_TOKEN': 'x'}"),
        (NAMED + '[secrets]\nkey = "x"', "secrets is {'key': 'x'}"),
        (NAMED + '[secrets]\nKEY = "a\\nb"', "secrets is"),
        (NAMED + '[secrets]\nKEY = ""', "secrets is {'KEY': ''}"),
        (NAMED + '[processes]\nweb = ["a"]', "processes is {'web': "),
        (NAMED + '[processes]\nworker = "a"', "processes is {'worker': 'a'}"),
        (NAMED + '[off]\nsafety = "no"', "off is {'safety': 'no'}, expected CHECK = \"the reason\", with one of the"),
        (NAMED + '[off]\nserver = ""', "off is {'server': ''}"),
        (
            NAMED + '[secrets]\nREDIS_URL = "x"\n[backing.redis]\nimage = "r"\nsecret = "REDIS_URL"',
            "REDIS_URL stands twice",
        ),
        (
            NAMED + '[processes]\nredis = ["x"]\n[backing.redis]\nimage = "r"',
            "redis is both a process and a backing service",
        ),
    ],
)
def test_what_is_wrong_is_named(text: str, sentence: str) -> None:
    """One sentence names the file, the key and the value."""
    with pytest.raises(UsageError, match=sentence) as raised:
        parse(text, {})
    assert "service.toml" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("variable", "file", "platforms"),
    [
        ("", "", ("linux/amd64", "linux/arm64")),
        ("", 'platforms = ["linux/arm64"]', ("linux/arm64",)),
        ("linux/amd64", "", ("linux/amd64",)),
        ("linux/arm64, linux/amd64", 'platforms = ["linux/arm64"]', ("linux/arm64", "linux/amd64")),
    ],
)
def test_platforms(variable: str, file: str, platforms: tuple[str, ...]) -> None:
    """The file says them, as a pull request from a fork gets no variables; the variable overrides the file."""
    assert parse(NAMED + file, {"PLATFORMS": variable}).platforms == platforms


def test_a_platform_that_cannot_be() -> None:
    """The variable is named, as the file is not to blame."""
    with pytest.raises(UsageError, match="PLATFORMS has 'linux/arm' in it, expected linux/amd64 or linux/arm64"):
        parse(NAMED, {"PLATFORMS": "linux/amd64 linux/arm"})


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://redis:6379/0", "redis://:p%40ss@redis:6379/0"),
        ("postgresql://shop@postgres/shop", "postgresql://shop:p%40ss@postgres/shop"),
    ],
)
def test_address(url: str, address: str) -> None:
    """A password stands where a URL has it, escaped."""
    assert Backing("b", "image", url).address("p@ss") == address


def test_load(tmp_path: Path) -> None:
    """A repository's file; without one the sentence says what to write."""
    assert service.load(FIXTURE, {}).name == "fixture"
    with pytest.raises(UsageError, match='it needs one line: name = "your-service"'):
        service.load(tmp_path, {})
    (tmp_path / "service.toml").write_bytes(b"\xff")
    with pytest.raises(UsageError, match="is not UTF-8 text"):
        service.load(tmp_path, {})


def test_a_check_that_is_not_there() -> None:
    """A name that the smoke test mistypes is a fault, and not a check that is on."""
    with pytest.raises(KeyError):
        parse(NAMED, {}).has("everything")


def copy(folder: Path, changes: dict[str, tuple[str, str]]) -> Path:
    """A copy of the fixture's files with changes: file -> old text, new text."""
    (folder / "deploy").mkdir()
    (folder / "deploy/compose.redis.yaml").touch()
    for name in ("service.toml", "Dockerfile", "compose.yaml"):
        text = (FIXTURE / name).read_text("utf-8")
        if name in changes:
            assert changes[name][0] in text
            text = text.replace(*changes[name])
        (folder / name).write_text(text, "utf-8")
    return folder


def test_the_fixture_says_the_same_everywhere(tmp_path: Path) -> None:
    """Nothing is found where nothing is."""
    assert service.differences(copy(tmp_path, {}), {}) == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"Dockerfile": ("EXPOSE 8080", "EXPOSE 80")}, "Dockerfile: EXPOSE is 80, but port in service.toml"),
        ({"Dockerfile": ("EXPOSE 8080", "")}, "Dockerfile: EXPOSE is missing"),
        ({"Dockerfile": ('CMD ["python", "-m", "fixture"]', "CMD python -m fixture")}, "Dockerfile: CMD is python"),
        ({"Dockerfile": ('"-m", "fixture"]', '"-m", "other"]')}, 'makes it CMD ["python", "-m", "fixture"]'),
        ({"Dockerfile": ('title="fixture"', 'title="other"')}, "title is other, but name in service.toml is fixture"),
        ({"service.toml": ("port = 8080", "port = 80")}, "EXPOSE is 8080"),
        ({"service.toml": ("publish = 4000", "publish = 8000")}, "web does not publish ${PORT:-8000}:8080"),
        ({"service.toml": ("[secrets]", "[secrets]\nKEY = 'x'")}, "web does not get KEY"),
        ({"service.toml": ("redis:8", "redis:9")}, "there is no service redis with the image redis:9"),
        ({"service.toml": ("[secrets]", "[processes]\nworker = ['a']\n[secrets]")}, "there is no service worker"),
        ({"service.toml": ("port = 8080", "port = 8080\nvolumes = ['/data']")}, "web has no volume at /data"),
        ({"service.toml": ("[backing.redis]", "[backing.store]")}, "there is no deploy/compose.store.yaml"),
        ({"compose.yaml": ("fixture:ci", "other:ci")}, "the image of web is not ${IMAGE:-fixture:ci}"),
        ({"compose.yaml": ("STORE_URL", "URL")}, "web does not get STORE_URL"),
        ({"compose.yaml": ("  web:", "  page:")}, "there is no service web"),
    ],
)
def test_differences(tmp_path: Path, changes: dict[str, tuple[str, str]], sentence: str) -> None:
    """What says otherwise is named, with the file and what service.toml says."""
    found = service.differences(copy(tmp_path, changes), {})
    assert any(sentence in line for line in found), found


@pytest.mark.parametrize("head", ["web:", "web: &service", "web:  # visitors'", "web: &service # visitors'"])
def test_services_of_compose(head: str) -> None:
    """An anchor or a comment beside a service's name does not belong to it."""
    found = service.services_in(
        f"x: y\nservices:\n  {head}\n    image: a\n\n  worker:\n    <<: *service\nvolumes:\n  v:\n"
    )
    assert found == {"web": "    image: a\n\n", "worker": "    <<: *service\n"}


def test_no_dockerfile(tmp_path: Path) -> None:
    """Without one there is no image; without compose.yaml there is only no `docker compose up`."""
    copy(tmp_path, {})
    (tmp_path / "Dockerfile").unlink()
    (tmp_path / "compose.yaml").unlink()
    assert service.differences(tmp_path, {}) == ["there is no Dockerfile; the image is built from it"]
