#!/usr/bin/env python3
"""Make a copy of this template carry your own service.

  python3 scripts/adopt.py shop-api --dry-run            say what would change, and change nothing
  python3 scripts/adopt.py shop-api                      rename the example service, and continue from its code
  python3 scripts/adopt.py shop-api --from ../my-app     put your own project in its place

Renames the package in src/, its imports, the image, compose.yaml, deploy/, the metrics, pyproject.toml, service.toml
and the README's head, and adds you (git config user.name) to the licence. Notes in .github/template.json where the copy
came from, so that scripts/update_template.py can bring it up to date.

--from takes a folder with a requirements.txt or a pyproject.toml and a WSGI or ASGI application: in app.py, main.py or
the like, or in a package. The code stays as it is, and goes to src/. gunicorn or uvicorn serves it, not its development
server, and its requirements are pinned with hashes. The last lines say what is left to do.

Asks nothing, never touches uncommitted changes, and changes nothing the second time.
"""

from __future__ import annotations

import contextlib
import keyword
import re
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves it out

import check
from lib.command import ROOT, Failure, UsageError, last_line, parser, run, say, start
from lib.names import PIPELINE, git, public_url
from lib.project import Files, Project, look
from lib.template import (
    RECORD,
    SERVICE_FOLDERS,
    Name,
    is_yours,
    name_in,
    named,
    parse_record,
    pipeline_state,
    rename_file,
    rename_path,
    write_record,
)


def check_name(name: str, requirements: str) -> None:
    """Raise UsageError unless this can name an image, a host and a Python package that hides no other."""
    if not re.fullmatch(r"[a-z]([a-z0-9]|-(?!-)){0,38}[a-z0-9]", name):
        raise UsageError(
            f"{name!r} cannot name a service; take 2 to 40 lower-case letters, digits and single dashes that start with"
            " a letter, such as shop-api"
        )
    package = named(name).package
    installed = {re.sub(r"[-.]", "_", word.lower()) for word in re.findall(r"^([\w.-]+)", requirements, re.M)}
    why = ""
    if keyword.iskeyword(package) or keyword.issoftkeyword(package):
        why = "is a word of Python's own"
    elif package in sys.stdlib_module_names:
        why = "is a module of Python's standard library"
    elif package in {*installed, "gunicorn", "uvicorn"}:
        why = "is a package that services import"
    elif package in {"scripts", "tests", "benchmarks", "lib", "src", PIPELINE}:
        why = "has a meaning in this repository"
    if why:
        raise UsageError(f"{name!r} {why}; take another name, such as {name}-service")


def renamed(files: Files, old: Name, new: Name) -> dict[str, bytes]:
    """Return the user's own files with the service's name replaced, in their paths too.

    What was measured, and whose the template is, stays as it is.
    """
    made = {}
    for path, content in files.items():
        with contextlib.suppress(UnicodeDecodeError):
            content = rename_file(path, content.decode("utf-8"), old, new).encode()
        made[rename_path(path, old, new)] = content
    return made


def with_holder(licence: str, holder: str) -> str:
    """Return the licence with its new holder above the template's authors, whose notice has to stay."""
    match = re.search(r"^(Copyright \(c\) \d{4}) The .* authors$", licence, re.M)
    if not match or not holder or f" {holder}\n" in licence:
        return licence
    return licence[: match.start()] + f"{match[1]} {holder}\n" + licence[match.start() :]


def with_head(readme: str, new: Name) -> str:
    """Return the README with a first sentence of the service's own, if it still has the template's."""
    sentence = (
        f"# {new.name}\n\nThe service {new.name}, tested, built, published and redeployed by GitHub Actions, with one"
        " digest from build to rollback.\n"
    )
    return re.sub(r"\A# .*\n\nA (template repository: |CI/CD template ).*\n", lambda _: sentence, readme)


def serve_command(project: Project) -> list[str]:
    """Return the arguments after `python -m` that serve a project in its container."""
    if project.asgi:
        options = ["--host=0.0.0.0", f"--port={project.port}", "--no-server-header", "--timeout-graceful-shutdown=8"]
        return ["uvicorn", *options, *(["--factory"] if project.factory else []), project.reference]
    # The heartbeat's file is in memory, because the root is read-only; so gunicorn's control socket is off.
    options = [f"--bind=0.0.0.0:{project.port}", "--workers=2", "--threads=4", "--graceful-timeout=8"]
    options += ["--worker-tmp-dir=/dev/shm", "--no-control-socket"]
    return ["gunicorn", *options, project.reference + ("()" if project.factory else "")]


def develop_command(project: Project) -> list[str]:
    """Return the command that serves a project while it is worked on."""
    if project.asgi:
        options = ["--port", "{port}", "--reload", *(["--factory"] if project.factory else [])]
        return ["python", "-m", "uvicorn", *options, project.reference]
    reference = project.reference + ("()" if project.factory else "")
    return ["python", "-m", "gunicorn", "--bind", "127.0.0.1:{port}", "--reload", reference]


def quoted(command: Sequence[str]) -> str:
    """Return a command as TOML, JSON and a Dockerfile write it."""
    return "[" + ", ".join(f'"{word}"' for word in command) + "]"


def launcher(project: Project) -> str:
    """Return the text of the module that starts a project."""
    words = "\n".join(f'    "{word}",' for word in serve_command(project))
    return f'''"""Start the service.

On a host its secrets are files: NAME_FILE names one. The code finds what is in it where it looks for it, in NAME.
"""

import os
import sys
from pathlib import Path

SERVER = [
{words}
]

for variable in [name for name in os.environ if name.endswith("_FILE")]:
    path = Path(os.environ[variable])
    if path.is_file():
        os.environ.setdefault(variable.removesuffix("_FILE"), path.read_text("utf-8").strip())
os.execv(sys.executable, [sys.executable, "-m", *SERVER])  # noqa: S606  it becomes process 1, which gets the signals
'''


def service_toml(name: str, project: Project, launched: bool) -> str:
    """Return the text of service.toml."""
    lines = [
        "# All that the pipeline knows of this service; scripts/lib/service.py says what each key means.",
        f'name = "{name}"',
        *([] if launched else [f"start = {quoted(['python', '-m', *serve_command(project)])}"]),
        f"develop = {quoted(develop_command(project))}",
        f"port = {project.port}",
        f'health = "{project.health or project.page}"',
        f'page = "{project.page}"',
    ]
    secrets = [name for name in project.secrets if name != "REDIS_URL"]
    if project.redis:
        lines += ["", "[backing.redis]", 'image = "redis:8"']
        if "REDIS_URL" in project.secrets:
            lines += ['url = "redis://redis:6379/0"', 'secret = "REDIS_URL"']
    if secrets:
        lines += ["", "# What tests and rehearsals give it; the real ones are set where it is deployed.", "[secrets]"]
        lines += [f'{name} = "only-for-tests"' for name in secrets]
    lines += ["", "# Checks of the smoke test that this service does not pass yet.", "[off]"]
    lines += [
        'revision = "the code sends no X-Revision header"',
        'nosniff = "the code sends no X-Content-Type-Options"',
    ]
    why = "uvicorn closes a connection whose request is not complete"
    if not project.asgi:
        why = "gunicorn's threads take connections until they end"
    lines += [f'finish = "{why}"']
    return "\n".join(lines) + "\n"


def smoke_py(project: Project) -> str:
    """Return the text of smoke.py."""
    when = "complete" if project.redis else "alone"
    return f'''"""What a visitor of this service is promised. It is yours: add what must never break.

scripts/smoke_test.py calls `alone` while nothing is beside the service, then `complete` with the backing services of
service.toml beside it; leave out the one that does not hold. A promise is an `assert`.

  service.get(path)            the answer: .status, .headers (names in lower case), .text and .json()
  service.post(path, body)     the same; headers={{...}} goes with both
  service.until(path, good)    ask until good(answer) is true; all answers, the good one last
"""

from __future__ import annotations

from typing import Any


def {when}(service: Any) -> None:
    """The page is there."""
    answer = service.get("{project.page}")
    assert answer.status == 200, f"GET {project.page} answered {{answer.status}}, expected 200"
    assert answer.text, "the page is empty"
'''


def test_py(project: Project) -> str:
    """Return the text of the first test of the service."""
    module, _, name = project.reference.partition(":")
    return f'''"""Does the service do what it promises? Write one test for each promise."""

from __future__ import annotations

import importlib


def test_there_is_an_application() -> None:
    """The server finds what it is to serve."""
    assert callable(importlib.import_module("{module}").{name})
'''


HARDENED = """    read_only: true
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    restart: unless-stopped
"""


def compose_yaml(name: str, project: Project) -> str:
    """Return the text of compose.yaml."""
    given = {secret: "${" + secret + ":-only-for-tests}" for secret in project.secrets}
    if "REDIS_URL" in given:
        given["REDIS_URL"] = "redis://redis:6379/0"
    beside = ", with a Redis that keeps its data" if project.redis else ""
    text = f"""# docker compose up: the service at http://127.0.0.1:4000{beside}.

services:
  web:
    image: ${{IMAGE:-{name}:ci}}
    build: .
    ports:
      - "${{BIND:-127.0.0.1}}:${{PORT:-4000}}:{project.port}" # for this machine alone; BIND=0.0.0.0 opens it
"""
    if given:
        text += "    environment:\n" + "".join(f"      {secret}: {value}\n" for secret, value in given.items())
    if project.redis:
        text += "    depends_on:\n      redis:\n        condition: service_healthy\n"
    text += HARDENED
    if project.redis:
        text += f"""
  redis:
    image: redis:8
    command: ["redis-server", "--appendonly", "yes"]
    volumes:
      - redis-data:/data
    healthcheck:
      test: ["CMD", "redis-cli", "ping"]
      interval: 5s
      timeout: 10s
      start_period: 30s
      start_interval: 500ms
    user: "999:999"
{HARDENED}
volumes:
  redis-data:
"""
    return text


def dockerfile(text: str, start: Sequence[str], project: Project) -> str:
    """Return the example's Dockerfile with another port, health path and command."""
    health = (
        f"http.client.HTTPConnection('127.0.0.1', {project.port}, timeout=2); "
        f"c.request('GET', '{project.health or project.page}')"
    )
    for pattern, line in (
        (r"^EXPOSE \d+$", f"EXPOSE {project.port}"),
        (r"http\.client\.HTTPConnection\('127\.0\.0\.1', \d+, timeout=2\); c\.request\('GET', '[^']*'\)", health),
        (r"^CMD \[.*\]$", f"CMD {quoted(start)}"),
    ):
        if not re.search(pattern, text, re.M):
            raise Failure(f"the Dockerfile has no line like {pattern}; restore it with git checkout HEAD -- Dockerfile")
        text = re.sub(pattern, lambda _, line=line: line, text, flags=re.M)  # type: ignore[misc]
    return re.sub(r"^ENV NAME=World \\\n +", "ENV ", text, flags=re.M)  # the example's greeting


def kubernetes(text: str, project: Project) -> str:
    """Return the example's manifest with another port and health path, and without its Redis."""
    text = re.sub(r"containerPort: \d+", f"containerPort: {project.port}", text)
    text = re.sub(r"httpGet: \{path: /healthz,", f"httpGet: {{path: {project.health or project.page},", text)
    for example in (  # the secret with the address of Redis as a file, and whom the service may talk to
        r"^ +env:.*\n +- \{name: REDIS_URL_FILE.*\n +volumeMounts:\n +- \{name: secrets.*\n",
        r"^ +volumes:\n +- name: secrets\n +secret: .*\n",
        r"^  egress:\n(?:    .*\n)+",
    ):
        text = re.sub(example, "", text, flags=re.M)
    return text.replace("[Ingress, Egress]", "[Ingress]").replace(
        "the page's port, and the page reaches name servers and Redis: nothing else.",
        "the service's port, and no other.",
    )


def any_command(text: str) -> str:
    """Return deploy/compose.redis.yaml with a Redis whose clients may do more than the example's, which only counts."""
    return re.sub(r"~counter resetchannels -@all [a-z+ ]+", "~* &* +@all", text)


def open_redis(text: str) -> str:
    """Return deploy/compose.redis.yaml with a Redis that asks for no password: the code has none to give."""
    command = '    command: ["redis-server", "--appendonly", "yes", "--appendfsync", "always"]\n'
    text = re.sub(r"(?:^    #.*\n)*^    command:\n(?:      .*\n)+", lambda _: command, text, flags=re.M)
    text = re.sub(r"^    secrets:.*\n", "", text, flags=re.M)
    return re.sub(r"^      test:\n(?:        .*\n)+", '      test: ["CMD", "redis-cli", "ping"]\n', text, flags=re.M)


def pyproject(text: str, project: Project) -> str:
    """Return pyproject.toml with the code that was taken left alone by lint and types, until somebody tidies it."""
    tops = sorted({path.split("/")[0] for path in project.files})
    modules = [top.removesuffix(".py") for top in tops if top.endswith(".py") or f"{top}/__init__.py" in project.files]
    excluded = "".join(f'    "src/{top}",\n' for top in tops)
    names = ", ".join(f'"{name}", "{name}.*"' for name in modules)
    comment = "    # The code as it was taken: remove this, and its entry for mypy below, once it is tidy.\n"
    if comment + excluded in text:
        return text
    rest = re.search(r"^extend-exclude = \[(.*?)\]", text, re.M | re.S)
    kept = f"    {rest[1].strip().rstrip(',')},\n" if rest and rest[1].strip() else ""
    listed = f"extend-exclude = [\n{kept}{comment}{excluded}]"
    if rest:
        text = text[: rest.start()] + listed + text[rest.end() :]
    else:
        text = text.replace("[tool.ruff]\n", f"[tool.ruff]\n{listed}\n", 1)
    return text.rstrip("\n") + f"\n\n[[tool.mypy.overrides]]\nmodule = [{names}]\nignore_errors = true\n"


def put(files: Files, old: Name, new: Name, project: Project) -> dict[str, bytes]:
    """Return the user's own files with a project in the place of the example. Requirements are not yet pinned."""
    main = f"src/{new.package}/__main__.py"
    kept = renamed(files, old, new)
    made = {
        path: content
        for path, content in kept.items()
        if not path.startswith((*SERVICE_FOLDERS, "benchmarks/service")) and path != "packages.txt"
    }
    made |= {f"src/{path}": content for path, content in project.files.items()}
    launched = main not in made
    start = ["python", "-m", new.package] if launched else ["python", "-m", *serve_command(project)]
    texts = {
        "service.toml": service_toml(new.name, project, launched),
        "smoke.py": smoke_py(project),
        "compose.yaml": compose_yaml(new.name, project),
        "tests/service/test_service.py": test_py(project),
        "requirements.in": "".join(f"{line}\n" for line in with_server(project)),
    }
    if launched:
        texts[main] = launcher(project)
        made.setdefault(f"src/{new.package}/__init__.py", b"")
    edits: dict[str, Callable[[str], str]] = {
        "Dockerfile": lambda text: dockerfile(text, start, project),
        "deploy/kubernetes.yaml": lambda text: kubernetes(text, project),
        "pyproject.toml": lambda text: pyproject(text, project),
    }
    if not project.redis:
        made.pop("deploy/compose.redis.yaml", None)
    else:
        edits["deploy/compose.redis.yaml"] = any_command if "REDIS_URL" in project.secrets else open_redis
    for path, edit in edits.items():
        if path in made:
            texts[path] = edit(made[path].decode("utf-8"))
    return made | {path: text.encode() for path, text in texts.items()}


def with_server(project: Project) -> list[str]:
    """Return a project's requirements and the server that serves it."""
    names = {re.split(r"[^\w.-]", line.lower())[0] for line in project.requirements}
    return [*project.requirements, *([] if project.server in names else [project.server])]


def pinned(made: Files, bin_: Path) -> dict[str, bytes]:
    """Return the requirements files, compiled with hashes."""
    names = check.REQUIREMENTS
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            for path in (f"{name}.in", f"{name}.txt"):
                (Path(folder) / path).write_bytes(made[path])
        for name in names:
            done = run(check.compile_command(str(bin_ / "uv"), name), cwd=Path(folder), check=False)
            if done.returncode != 0:
                raise Failure(f"cannot pin {name}.in{last_line(done)}; correct the project's requirements first")
        return {f"{name}.txt": (Path(folder) / f"{name}.txt").read_bytes() for name in names}


def own_files(root: Path) -> dict[str, bytes]:
    """Return the files of the repository that belong to whoever made the copy."""
    listed = git("ls-files", "-z", root=root).split("\0")
    return {
        path: (root / path).read_bytes()
        for path in listed
        if path and is_yours(path) and (root / path).is_file() and not (root / path).is_symlink()
    }


def record(root: Path, name: str) -> str:
    """Return the text of RECORD, "" if nothing says where the template is."""
    path = root / RECORD
    if path.is_file():
        parse_record(path.read_text("utf-8"))
        return write_record(path.read_text("utf-8"), name=name)
    remotes = [
        run(["git", "-C", str(root), "remote", "get-url", remote], check=False).stdout.strip()
        for remote in ("upstream", "origin")
    ]
    address = next(filter(None, remotes), "")
    if not address:
        return ""
    listed = git("ls-tree", "-r", "-z", "HEAD", root=root).split("\0")
    blobs = {entry.partition("\t")[2]: entry.split()[2] for entry in listed if "\t" in entry}
    return write_record(
        "",
        origin=public_url(address) or address,
        commit=git("rev-parse", "HEAD", root=root),
        name=name,
        pipeline=pipeline_state(blobs),
    )


def changes(before: Files, after: Files) -> dict[str, str]:
    """Return what happens to each file that does not stay as it is: path -> add, change or remove."""
    kinds = {path: "add" if path not in before else "change" for path in after if before.get(path) != after[path]}
    return kinds | {path: "remove" for path in before if path not in after}


def write(root: Path, after: Files, kinds: Mapping[str, str]) -> None:
    """Carry the changes out, and leave no empty folder."""
    for path, kind in kinds.items():
        file = root / path
        if kind == "remove":
            file.unlink()
            for folder in file.relative_to(root).parents:
                cache = root / folder / "__pycache__"
                if cache.is_dir():
                    for compiled in cache.iterdir():
                        compiled.unlink()
                    cache.rmdir()
                if folder == Path() or any((root / folder).iterdir()):
                    break
                (root / folder).rmdir()
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(after[path])


def tools() -> Path:
    """Return the folder of uv and ruff; they are made if they are not there yet."""
    return check.make_environment(ROOT / ".venv")


def tidy(bin_: Path, paths: Sequence[str]) -> None:
    """Sort imports and break lines again: a new name has another place in the alphabet and another length."""
    if paths:
        run(
            [str(bin_ / "ruff"), "check", "--quiet", "--fix-only", "--select", "I", "--force-exclude", *paths], cwd=ROOT
        )
        run([str(bin_ / "ruff"), "format", "--quiet", "--force-exclude", *paths], cwd=ROOT)


def left_to_do(new: Name, project: Project | None, recorded: bool) -> list[str]:
    """Return what the user does next."""
    todo = [
        "look at it: git diff, then git add --all && git commit",
        "python3 scripts/check.py, then python3 scripts/pipeline.py --setup",
    ]
    if project:
        if not project.health:
            todo.append(
                f"add a health path that needs nothing else and name it in service.toml; {project.page} stands in"
            )
        todo += [
            "say in smoke.py what visitors are promised, and in tests/service/ what else has to hold",
            *(["move its tests into tests/service/: they were not taken"] if project.tested else []),
            "read service.toml: [off] has the checks that it does not pass yet, each with its reason",
        ]
        if project.secrets:
            todo.append(f"set {', '.join(project.secrets)} where it is deployed; the README says where")
        if project.redis and "REDIS_URL" not in project.secrets:
            todo.append("let the code read REDIS_URL: it finds Redis by a fixed host name, so without a password")
        todo += [
            "tidy the code, then remove extend-exclude and the override in pyproject.toml that spare it lint and types",
            "rewrite README.md and CHANGELOG.md, which still tell of the example",
        ]
    else:
        todo.append(f"put your own code into src/{new.package}/, and what it promises into smoke.py and tests/service/")
    if not recorded:
        todo.append(
            "no git remote says where the template is: git remote add upstream URL, then run this again, so that"
            " update_template.py finds it"
        )
    return todo


def main(argv: Sequence[str]) -> int:
    arguments = parser(__doc__)
    arguments.add_argument("name", help="the service's new name, such as shop-api")
    arguments.add_argument("--from", dest="project", type=Path, metavar="FOLDER", help="a project to put in place")
    arguments.add_argument("--dry-run", action="store_true", help="say what would change, and change nothing")
    options = arguments.parse_args(argv)
    before = own_files(ROOT)
    sources = before.keys() & {"service.toml", "pyproject.toml"}
    old, new = name_in({file: before[file].decode("utf-8") for file in sources}), named(options.name)
    if not old:
        raise Failure("service.toml has no name; restore it with git checkout HEAD -- service.toml")
    project = look(options.project) if options.project else None
    requirements = "\n".join(with_server(project)) if project else before["requirements.in"].decode("utf-8")
    check_name(options.name, requirements)
    path = ROOT / RECORD
    recorded = path.is_file() and parse_record(path.read_text("utf-8")).name
    after = put(before, old, new, project) if project else renamed(before, old, new)
    if old != new or not recorded:
        holder = run(["git", "-C", str(ROOT), "config", "user.name"], check=False).stdout.strip()
        heads: dict[str, Callable[[str], str]] = {
            "LICENSE": lambda text: with_holder(text, holder),
            "README.md": lambda text: with_head(text, new),
        }
        for file in heads.keys() & after.keys():
            after[file] = heads[file](after[file].decode("utf-8")).encode()
    if path.is_file():
        before[RECORD] = path.read_bytes()
    text = record(ROOT, new.name)
    if text:
        after[RECORD] = text.encode()
    kinds = changes(before, after)
    if not kinds:
        say(f"this is {new.name} already: nothing to do")
        return 0
    if project and recorded and old == new:
        raise Failure(
            f"this copy carries {new.name} already, and --from would replace {len(kinds)} of its files, such as"
            f" {min(kinds)}; change them by hand"
        )
    if git("status", "--porcelain", root=ROOT):
        raise Failure("there are changes that are in no commit; commit them or put them away with git stash first")
    if project and not options.dry_run and before.get("requirements.in") != after["requirements.in"]:
        say("pinning the requirements with uv")
        after |= pinned(after, tools())
        kinds = changes(before, after)
    for file, kind in sorted(kinds.items()):
        print(f"{'would ' if options.dry_run else ''}{kind} {file}")
    if options.dry_run:
        return 0
    bin_ = tools()
    write(ROOT, after, kinds)
    tidy(bin_, [path for path, kind in kinds.items() if kind != "remove" and path.endswith(".py")])
    print(f"\n{old.name} is {new.name} now. What is left to do:")
    for number, step in enumerate(left_to_do(new, project, bool(text)), 1):
        print(f"{number}. {step}")
    return 0


if __name__ == "__main__":
    start(main)
