"""A copy of the template takes the name of somebody's service, or all of its code."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import adopt
from lib import project as projects
from lib import service
from lib.command import Failure, UsageError
from lib.project import look, requirements_in
from lib.template import RECORD, named, parse_record

FLASK = "from flask import Flask\napp = Flask(__name__)\n"
# As long as a service's Dockerfile needs to be for adopt.py, with the lines that it changes.
DOCKERFILE = """FROM python:3.13-slim-trixie
LABEL org.opencontainers.image.title="hello" \\
      org.opencontainers.image.licenses="MIT"
ENV NAME=World \\
    REVISION="$REVISION"
EXPOSE 80
HEALTHCHECK \\
    CMD ["python", "-c", "import http.client; c = http.client.HTTPConnection('127.0.0.1', 80, timeout=2); \
c.request('GET', '/healthz'); exit(c.getresponse().status != 200)"]
CMD ["python", "-m", "hello"]
"""
TEMPLATE = {
    "service.toml": 'name = "hello"\n',
    "smoke.py": '"""What hello promises."""\n',
    "pyproject.toml": '[project]\nname = "hello"\n\n[tool.ruff]\nline-length = 120\n',
    "Dockerfile": DOCKERFILE,
    "compose.yaml": "services:\n  web:\n    image: ${IMAGE:-hello:ci}\n",
    "requirements.in": "flask\n",
    "requirements.txt": "flask==3.1.2\n",
    "requirements-dev.in": "-r requirements.in\npytest\n",
    "requirements-dev.txt": "pytest==9.0.0\n",
    "LICENSE": "MIT License\n\nCopyright (c) 2026 The hello authors\n\nPermission is granted.\n",
    "README.md": "# hello\n\nA template repository: all.\n\n`hello_visits_total` counts, `docker run hello:ci`.\n",
    "src/hello/__init__.py": "import logging\n\nlog = logging.getLogger('hello')\n",
    "src/hello/__main__.py": "import zlib\n\nfrom hello import log\nfrom yarl import URL\n\nprint(log, URL, zlib)\n",
    "tests/service/test_hello.py": "from hello import log\n\nassert log\n",
    "deploy/kubernetes.yaml": (
        "metadata: {name: hello}\ncontainerPort: 80\n          env:\n            - {name: REDIS_URL_FILE, value: /x}\n"
        "          volumeMounts:\n            - {name: secrets, mountPath: /x}\n"
        "httpGet: {path: /healthz, port: http}\n"
        "      volumes:\n        - name: secrets\n          secret: {secretName: hello}\n"
        "spec:\n  policyTypes: [Ingress, Egress]\n  egress:\n    - ports: [{port: 6379}]\n"
    ),
    "deploy/compose.redis.yaml": (
        "services:\n  redis:\n    # With a password.\n    command:\n      - sh\n      - -c\n"
        "      - |\n        user default on >x ~counter resetchannels -@all +incrby +get\n"
        "    secrets: [redis_url]\n    networks: [data]\n    healthcheck:\n"
        "      test:\n        - CMD\n        - sh\n      interval: 5s\n"
    ),
    "scripts/check.py": "# hello is a word here\n",
    "logo.bin": "hello",
}


def git(root: Path, *arguments: str) -> str:
    """Run git as somebody."""
    command = ["git", "-C", str(root), "-c", "user.email=ada@example.com", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a small template, which adopt.py takes for its own repository."""
    root = tmp_path / "copy"
    for path, text in TEMPLATE.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, "utf-8")
    git(tmp_path, "init", "--quiet", "--initial-branch", "main", str(root))
    git(root, "config", "user.name", "Ada Example")
    git(root, "remote", "add", "origin", "https://user:secret@git.example.com/hello/hello.git")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "Start")
    monkeypatch.setattr(adopt, "ROOT", root)
    monkeypatch.setattr(projects, "ROOT", root)
    monkeypatch.setattr(adopt, "tools", lambda: Path(sys.executable).parent)
    monkeypatch.setattr(adopt, "pinned", lambda made, _: {"requirements.txt": b"pinned: " + made["requirements.in"]})
    return root


@pytest.fixture
def project(tmp_path: Path) -> Callable[..., Path]:
    """Make a project of files, given as path -> text."""

    def make(**files: str) -> Path:
        folder = tmp_path / "my-app"
        for path, text in {"requirements.txt": "Flask\n", **files}.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, "utf-8")
        return folder

    return make


def texts(root: Path) -> dict[str, str]:
    """Return every file of a repository."""
    listed = git(root, "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    return {path: (root / path).read_text("utf-8") for path in listed if (root / path).is_file()}


def test_the_service_has_its_new_name_everywhere(copy: Path) -> None:
    """Paths, imports, loggers, metrics, the image, the manifests; the pipeline keeps its own words."""
    commit = git(copy, "rev-parse", "HEAD")
    assert adopt.main(["shop-api"]) == 0
    found = texts(copy)
    assert found["src/shop_api/__init__.py"].endswith('getLogger("shop_api")\n')
    assert "\nfrom yarl import URL\n\nfrom shop_api import log\n" in found["src/shop_api/__main__.py"]  # sorted again
    assert found["tests/service/test_hello.py"].startswith("from shop_api import log\n")
    assert service.parse(found["service.toml"], {}).start == ("python", "-m", "shop_api")
    assert 'title="shop-api"' in found["Dockerfile"]
    assert 'CMD ["python", "-m", "shop_api"]' in found["Dockerfile"]
    assert "${IMAGE:-shop-api:ci}" in found["compose.yaml"]
    assert "{name: shop-api}" in found["deploy/kubernetes.yaml"]
    assert found["README.md"].startswith("# shop-api\n\nThe service shop-api, ")
    assert "`shop_api_visits_total` counts, `docker run shop-api:ci`" in found["README.md"]
    assert "2026 Ada Example\nCopyright (c) 2026 The hello authors\n" in found["LICENSE"]
    assert found["scripts/check.py"] == TEMPLATE["scripts/check.py"]
    assert found["logo.bin"] == TEMPLATE["logo.bin"]
    record = parse_record(found[RECORD])
    assert (record.origin, record.commit) == ("https://git.example.com/hello/hello", commit)
    assert record.name == "shop-api"
    assert record.pipeline.startswith("sha256:")
    assert not list(copy.glob("src/hello/**"))


def test_the_second_time_changes_nothing(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whether the first time is in a commit yet or not."""
    adopt.main(["shop-api"])
    once = texts(copy)
    for _ in range(2):
        assert adopt.main(["shop-api"]) == 0
        assert texts(copy) == once
        assert "this is shop-api already: nothing to do" in capsys.readouterr().err
        git(copy, "add", "--all")
        git(copy, "commit", "--quiet", "--allow-empty", "--message", "Adopt")


def test_a_name_can_be_changed_again(copy: Path) -> None:
    """What the template is, and at which commit it was copied, stays as it was; so does the licence."""
    adopt.main(["shop-api"])
    before = parse_record((copy / RECORD).read_text("utf-8"))
    git(copy, "add", "--all")
    git(copy, "commit", "--quiet", "--message", "Adopt")
    adopt.main(["shop-api-two"])
    found = texts(copy)
    after = parse_record(found[RECORD])
    assert (after.name, after.commit, after.pipeline) == ("shop-api-two", before.commit, before.pipeline)
    assert found["LICENSE"].count("Copyright") == 2
    assert "from shop_api_two import log" in found["tests/service/test_hello.py"]


@pytest.mark.parametrize("changed", ["README.md", "new.txt"])
def test_uncommitted_changes_are_never_touched(copy: Path, changed: str) -> None:
    """Neither those of a file that Git knows nor a new file; the sentence says what to do."""
    (copy / changed).write_text("mine", "utf-8")
    before = texts(copy)
    with pytest.raises(Failure, match="commit them or put them away with git stash first"):
        adopt.main(["shop-api"])
    assert texts(copy) == before


def test_a_dry_run_says_everything_and_changes_nothing(
    copy: Path, project: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """With a project and without."""
    before = texts(copy)
    adopt.main(["shop-api", "--dry-run"])
    adopt.main(["shop-api", "--dry-run", "--from", str(project(**{"app.py": FLASK}))])
    out = capsys.readouterr().out
    assert "would change Dockerfile\n" in out
    assert "would add src/app.py\n" in out
    assert "would remove src/hello/__init__.py\n" in out
    assert texts(copy) == before


def test_without_a_remote_the_template_is_not_guessed(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The last line says how to name it."""
    git(copy, "remote", "remove", "origin")
    adopt.main(["shop-api"])
    assert not (copy / RECORD).exists()
    assert "git remote add upstream URL" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Shop", "cannot name a service"),
        ("s", "cannot name a service"),
        ("9shop", "cannot name a service"),
        ("shop_api", "cannot name a service"),
        ("shop--api", "cannot name a service"),
        ("shop-", "cannot name a service"),
        ("shop.api", "cannot name a service"),
        ("shöp", "cannot name a service"),
        ("s" * 41, "cannot name a service"),
        ("shop\n", "cannot name a service"),
        ("../shop", "cannot name a service"),
        ("", "cannot name a service"),
        ("json", "is a module of Python's standard library"),
        ("class", "is a word of Python's own"),
        ("match", "is a word of Python's own"),
        ("flask", "is a package that services import"),
        ("prometheus-client", "is a package that services import"),
        ("gunicorn", "is a package that services import"),
        ("tests", "has a meaning in this repository"),
        ("onedigest", "has a meaning in this repository"),
    ],
)
def test_a_bad_name_gets_one_sentence(name: str, says: str) -> None:
    """It quotes the name and says what would do."""
    with pytest.raises(UsageError, match=says) as caught:
        adopt.check_name(name, "Flask>=3\nprometheus_client[x]==1\n")
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("name", ["shop", "shop-api", "s3", "a" * 40, "flask-shop"])
def test_a_good_name_is_taken(name: str) -> None:
    """Letters, digits and single dashes."""
    adopt.check_name(name, "flask\n")


@pytest.mark.parametrize("excluded", [[], ["other"], ["other", "more"]])
def test_a_project_takes_the_place_of_the_example(
    copy: Path, project: Callable[..., Path], capsys: pytest.CaptureFixture[str], excluded: list[str]
) -> None:
    """Its code as it is, and around it what the pipeline has to know; nothing of the example is left."""
    if excluded:
        with (copy / "pyproject.toml").open("a") as file:
            file.write(f"extend-exclude = {json.dumps(excluded)}  # theirs\n")
        git(copy, "commit", "--quiet", "--all", "--message", "Exclude")
    code = FLASK + "import os, redis\nKEY = os.environ['SECRET_KEY']\n@app.route('/')\ndef page():\n    return 'x'\n"
    folder = project(
        **{
            "app.py": code + "app.run(host='0.0.0.0', port=5000)\n",
            "templates/page.html": "<p>hello</p>",
            ".env": "SECRET_KEY=real",
            "data.sqlite3": "",
            "tests/test_app.py": "",
            "requirements.txt": "Flask\nRedis>=5  # the client\n",
        }
    )
    adopt.main(["shop-api", "--from", str(folder)])
    found = texts(copy)
    assert found["src/app.py"] == (folder / "app.py").read_text("utf-8")
    assert found["src/templates/page.html"] == "<p>hello</p>"
    assert not [path for path in found if path.startswith(("src/hello", "tests/service/test_hello", "src/.env"))]
    assert not [path for path in found if "sqlite" in path or path.startswith("src/tests")]
    assert found["requirements.in"] == "Flask\nRedis>=5\ngunicorn\n"
    assert found["requirements.txt"].startswith("pinned: ")
    this = service.parse(found["service.toml"], {})
    assert (this.name, this.port, this.page, this.health) == ("shop-api", 5000, "/", "/")
    assert this.start == ("python", "-m", "shop_api")
    assert [(one.name, one.url) for one in this.backing] == [("redis", "")]
    assert list(this.secrets) == ["SECRET_KEY"]
    assert set(this.off) == {"revision", "nosniff", "finish"}
    assert "EXPOSE 5000\n" in found["Dockerfile"]
    assert "('127.0.0.1', 5000, timeout=2); c.request('GET', '/');" in found["Dockerfile"]
    assert "NAME=World" not in found["Dockerfile"]
    assert ':5000" # for this machine alone' in found["compose.yaml"]
    assert "SECRET_KEY: ${SECRET_KEY:-only-for-tests}" in found["compose.yaml"]
    assert "containerPort: 5000\n" in found["deploy/kubernetes.yaml"]
    for gone in ("REDIS_URL", "secret", "6379", "Egress"):
        assert gone not in found["deploy/kubernetes.yaml"]
    assert yaml.safe_load(found["deploy/compose.redis.yaml"])["services"]["redis"] == {
        "command": ["redis-server", "--appendonly", "yes", "--appendfsync", "always"],
        "networks": ["data"],
        "healthcheck": {"test": ["CMD", "redis-cli", "ping"], "interval": "5s"},
    }
    settings = tomllib.loads(found["pyproject.toml"])["tool"]
    assert settings["ruff"]["extend-exclude"] == [*excluded, "src/app.py", "src/templates"]
    assert settings["mypy"]["overrides"] == [{"module": ["app", "app.*"], "ignore_errors": True}]
    assert '"--bind=0.0.0.0:5000"' in found["src/shop_api/__main__.py"]
    compile(found["smoke.py"], "smoke.py", "exec")
    compile(found["tests/service/test_service.py"], "test_service.py", "exec")
    said = capsys.readouterr().out
    for step in ("health path", "SECRET_KEY", "they were not taken", "let the code read REDIS_URL", "extend-exclude"):
        assert step in said
    git(copy, "add", "--all")
    git(copy, "commit", "--quiet", "--message", "Adopt")
    adopt.main(["shop-api", "--from", str(folder)])
    assert texts(copy) == found


@pytest.mark.parametrize(
    ("code", "wanted", "left"),
    [
        ("", "flask\n", None),
        (
            "os.environ.get('REDIS_URL')\n",
            "flask\nredis\n",
            TEMPLATE["deploy/compose.redis.yaml"].replace("~counter resetchannels -@all +incrby +get", "~* &* +@all"),
        ),
    ],
)
def test_the_stack_has_a_redis_if_there_is_one(
    copy: Path, project: Callable[..., Path], code: str, wanted: str, left: str | None
) -> None:
    """With a password, if the code reads its address, and for any command and key."""
    adopt.main(["shop-api", "--from", str(project(**{"app.py": FLASK + code, "requirements.txt": wanted}))])
    assert texts(copy).get("deploy/compose.redis.yaml") == left
    backing = service.load(copy, {}).backing
    assert [one.secret for one in backing] == (["REDIS_URL"] if left else [])


def test_a_project_is_put_in_place_only_once(copy: Path, project: Callable[..., Path]) -> None:
    """What was changed since is not overwritten."""
    folder = project(**{"app.py": FLASK})
    adopt.main(["shop-api", "--from", str(folder)])
    git(copy, "add", "--all")
    git(copy, "commit", "--quiet", "--message", "Adopt")
    (copy / "smoke.py").write_text("# mine", "utf-8")
    git(copy, "commit", "--quiet", "--all", "--message", "Promise more")
    with pytest.raises(Failure, match=r"this copy carries shop-api already, and --from would replace 1 .* smoke\.py"):
        adopt.main(["shop-api", "--from", str(folder)])


@pytest.mark.parametrize(
    ("files", "reference", "command"),
    [
        ({"app.py": FLASK}, "app:app", "gunicorn"),
        ({"web.py": "import flask\nserver: object = flask.Flask('x')\n"}, "web:server", "gunicorn"),
        ({"main.py": "from fastapi import FastAPI\napi = FastAPI(title='x')\n"}, "main:api", "uvicorn"),
        ({"app.py": "import x\n", "main.py": "app = Starlette()\n"}, "main:app", "uvicorn"),
        ({"shop/__init__.py": "def create_app():\n    return Flask('x')\n"}, "shop:create_app", "gunicorn"),
        ({"src/shop/web.py": "def create_app():\n    return FastAPI()\n"}, "shop.web:create_app", "uvicorn"),
        (
            {"site/wsgi.py": "application = get_wsgi_application()\n", "manage.py": ""},
            "site.wsgi:application",
            "gunicorn",
        ),
    ],
)
def test_the_application_is_found_where_it_is(
    project: Callable[..., Path], files: dict[str, str], reference: str, command: str
) -> None:
    """In a module or a package, made at once or by a function, for WSGI or for ASGI."""
    found = look(project(**files))
    assert found.reference == reference
    served = adopt.serve_command(found)
    assert served[0] == command
    assert ("--factory" in served or served[-1].endswith("()")) == found.factory == reference.endswith("create_app")


def test_routes_say_which_page_and_which_health(project: Callable[..., Path]) -> None:
    """A route without parameters is a page; what is called like a health check is one."""
    code = "app = FastAPI()\n@app.get('/items/{id}')\ndef item(id): ...\n@app.get('/items')\nasync def items(): ...\n"
    found = look(project(**{"main.py": code + "@app.get('/health')\ndef up(): ...\n", "Dockerfile": "EXPOSE 8000\n"}))
    assert (found.page, found.health, found.port) == ("/items", "/health", 8000)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"app.py": "print('x')\n"}, "found no WSGI or ASGI application in"),
        ({"app.py": "print 'x'\n"}, r"app\.py is not Python that this Python can read"),
        ({"app.py": FLASK, "requirements.txt": "-e .\n"}, "has the line '-e .', which cannot be pinned"),
        ({"app.py": FLASK, "requirements.txt": "x @ git+https://x\n"}, "which cannot be pinned"),
    ],
)
def test_a_bad_project_gets_one_sentence(
    copy: Path, project: Callable[..., Path], files: dict[str, str], says: str
) -> None:
    """Before anything changes."""
    before = texts(copy)
    with pytest.raises(UsageError, match=says):
        adopt.main(["shop-api", "--from", str(project(**files))])
    assert texts(copy) == before


def test_what_is_not_a_project_gets_one_sentence(copy: Path, tmp_path: Path) -> None:
    """A folder that is not there, one without requirements, and this repository itself."""
    with pytest.raises(UsageError, match="which is not a folder"):
        look(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"neither a requirements\.txt nor a pyproject\.toml"):
        look(tmp_path / "empty")
    with pytest.raises(UsageError, match="is this repository itself"):
        look(copy)


def test_requirements_lose_their_hashes_and_comments() -> None:
    """They are pinned again, for every platform."""
    text = "# ours\nflask==3.1.2 \\\n    --hash=sha256:ab \\\n    --hash=sha256:cd\n\n"
    text += "redis[hiredis] ; python_version > '3'  # x\n"
    assert requirements_in(text, "requirements.txt") == ("flask==3.1.2", "redis[hiredis] ; python_version > '3'")


def test_a_secret_reaches_code_that_reads_the_environment(tmp_path: Path, project: Callable[..., Path]) -> None:
    """On a host a secret is a file: what starts the service puts it where the code looks."""
    text = adopt.launcher(look(project(**{"app.py": FLASK})))
    asked = "import json, os, sys; print(json.dumps([os.environ.get('KEY'), os.environ.get('SET')]))"
    text = text.replace('[sys.executable, "-m", *SERVER]', f"[sys.executable, '-c', {asked!r}]")
    (tmp_path / "secret").write_text("s3cret\n", "utf-8")
    environment = {"KEY_FILE": str(tmp_path / "secret"), "SET_FILE": str(tmp_path / "secret"), "SET": "before"}
    done = subprocess.run([sys.executable, "-c", text], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["s3cret", "before"]


def test_the_names_of_a_package_are_those_that_python_takes() -> None:
    """A dash is for the image, an underscore for the import."""
    assert named("shop-api").package == "shop_api"
