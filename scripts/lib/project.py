"""Read a Python project: what it consists of, requires and serves. Nothing of it is run."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lib.command import ROOT, UsageError

Files = Mapping[str, bytes]
"""path -> content."""

ENTRIES = ("app.py", "main.py", "wsgi.py", "asgi.py", "application.py", "server.py", "__init__.py", "api.py")
"""Where an application usually is, the likeliest first."""
WSGI = ("Flask", "Bottle", "Eve", "get_wsgi_application")
ASGI = ("FastAPI", "Starlette", "Quart", "Litestar", "get_asgi_application")
HEALTH = ("/healthz", "/health", "/livez", "/up", "/ping", "/_health", "/status")
LEFT_OUT = re.compile(
    r"(^|/)(\.[^/]*|__pycache__|node_modules|venv|env|build|dist|tests?|[^/]*\.(pyc|log|db|sqlite3?|egg-info))(/|$)"
    r"|^(Dockerfile.*|(docker-)?compose.*\.ya?ml|requirements.*|README.*|LICEN[CS]E.*|CHANGELOG.*|Procfile|Makefile"
    r"|pyproject\.toml|setup\.(py|cfg)|tox\.ini|Pipfile.*|[a-z]+\.lock|conftest\.py|test_[^/]*\.py)$"
)
"""What of a project is not part of what runs. Dot files hold secrets, and databases somebody's data."""
SECRET = re.compile(r"SECRET|TOKEN|PASSWORD|API_KEY|_(?:KEY|DSN|URL|URI)$")


@dataclass(frozen=True)
class Project:
    """What --from found. `reference` is where the application is, as module:attribute."""

    files: Files
    requirements: tuple[str, ...]
    reference: str
    asgi: bool = False
    factory: bool = False
    port: int = 80
    page: str = "/"
    health: str = ""
    redis: bool = False
    secrets: tuple[str, ...] = ()
    tested: bool = False

    @property
    def server(self) -> str:
        """The package that serves it."""
        return "uvicorn" if self.asgi else "gunicorn"


def take(folder: Path) -> dict[str, bytes]:
    """Return a project's files that are part of what runs, by their path below its code's top."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not path.is_symlink() and not LEFT_OUT.search(name):
            found[name] = path.read_bytes()
    below_src = {name.removeprefix("src/"): content for name, content in found.items() if name.startswith("src/")}
    return below_src or found


def trees(files: Files) -> Iterator[tuple[str, ast.Module]]:
    """Yield the path and the syntax tree of each Python file, those that usually hold the application first."""

    def likeliness(path: str) -> tuple[int, int, str]:
        name = PurePosixPath(path).name
        return (path.count("/"), ENTRIES.index(name) if name in ENTRIES else len(ENTRIES), path)

    for path in sorted((path for path in files if path.endswith(".py")), key=likeliness):
        try:
            yield path, ast.parse(files[path])
        except (SyntaxError, ValueError) as error:
            raise UsageError(f"{path} is not Python that this Python can read: {error}") from None


def called(node: ast.expr | None) -> str:
    """Return the last part of the name that is called, such as Flask in `app = flask.Flask(__name__)`, or ""."""
    function = node.func if isinstance(node, ast.Call) else None
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def application_in(module: ast.Module) -> tuple[str, bool, bool] | None:
    """Return an application's name in a module, whether it is ASGI, and whether it is a function that makes it."""
    for node in module.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if called(node.value) in (*WSGI, *ASGI) and isinstance(targets[0], ast.Name):
                return targets[0].id, called(node.value) in ASGI, False
    for node in module.body:
        if isinstance(node, ast.FunctionDef) and node.name in ("create_app", "make_app", "get_app"):
            made = {called(inner) for inner in ast.walk(node) if isinstance(inner, ast.Call)}
            if made & {*WSGI, *ASGI}:
                return node.name, bool(made & set(ASGI)), True
    return None


def module_of(path: str) -> str:
    """Return the name that a file is imported by."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def routes_in(modules: Sequence[ast.Module]) -> list[str]:
    """Return the paths that decorators such as @app.route("/") and @app.get("/health") serve, without parameters."""
    return [
        str(call.args[0].value)
        for module in modules
        for node in ast.walk(module)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for call in node.decorator_list
        if isinstance(call, ast.Call) and called(call) in ("route", "get", "api_route") and call.args
        if isinstance(call.args[0], ast.Constant) and re.fullmatch(r"/[\w./-]*", str(call.args[0].value))
    ]


def port_in(modules: Sequence[ast.Module], dockerfile: str) -> int:
    """Return the port that the project's Dockerfile exposes, or that it tells its development server."""
    exposed = re.search(r"^EXPOSE\s+(\d+)", dockerfile, re.M | re.I)
    told = (
        int(str(option.value.value))
        for module in modules
        for node in ast.walk(module)
        if isinstance(node, ast.Call) and called(node) == "run"
        for option in node.keywords
        if option.arg == "port" and isinstance(option.value, ast.Constant) and str(option.value.value).isdigit()
    )
    port = int(exposed[1]) if exposed else next(told, 0)
    return port if 0 < port < 65536 else 80


def variables_in(modules: Sequence[ast.Module]) -> list[str]:
    """Return the environment variables that the code reads by name."""
    found = []
    for node in (node for module in modules for node in ast.walk(module)):
        key: ast.expr | None = None
        if isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("environ"):
            key = node.slice
        elif isinstance(node, ast.Call) and node.args and ast.unparse(node.func).endswith(("environ.get", "getenv")):
            key = node.args[0]
        if isinstance(key, ast.Constant) and re.fullmatch(r"[A-Z][A-Z0-9_]*", str(key.value)):
            found.append(str(key.value))
    return list(dict.fromkeys(found))


def requirements_in(text: str, where: str) -> tuple[str, ...]:
    """Return the lines of a requirements.txt without hashes; raise UsageError for one that cannot be pinned."""
    lines = re.sub(r"\\\r?\n", " ", text).splitlines()
    found = []
    for line in lines:
        wanted = re.sub(r"(^|\s)#.*", "", re.sub(r"\s--hash[= ]\S+", "", line)).strip()
        if re.match(r"-|\.|/|[a-z+]+://", wanted) or "git+" in wanted:
            raise UsageError(
                f"{where} has the line {wanted!r}, which cannot be pinned with a hash; name the package and its version"
                " instead, such as flask==3.1.2"
            )
        if wanted:
            found.append(wanted)
    return tuple(found)


def wanted_by(folder: Path) -> tuple[str, ...]:
    """Return what a project requires, from its requirements.txt or its pyproject.toml."""
    file = folder / "requirements.txt"
    if file.is_file():
        return requirements_in(file.read_text("utf-8"), str(file))
    file = folder / "pyproject.toml"
    try:
        return tuple(map(str, tomllib.loads(file.read_text("utf-8"))["project"]["dependencies"]))
    except (OSError, KeyError, TypeError, tomllib.TOMLDecodeError):
        raise UsageError(
            f"{folder} has neither a requirements.txt nor a pyproject.toml with [project] dependencies; write a"
            " requirements.txt with one package a line"
        ) from None


def look(given: Path) -> Project:
    """Return what a project is; raise UsageError if there is no project, or no application in it."""
    folder = given.parent if given.is_file() else given
    if not folder.is_dir():
        raise UsageError(f"--from is {str(given)!r}, which is not a folder; name the folder of your project")
    if folder.resolve() == ROOT:
        raise UsageError("--from is this repository itself; put your project into a folder of its own, outside of it")
    files = take(folder)
    wanted = wanted_by(folder)
    parsed = list(trees(files))
    modules = [tree for _, tree in parsed]
    applications = ((path, found) for path, tree in parsed if (found := application_in(tree)))
    path, (name, asgi, factory) = next(applications, ("", ("", False, False)))
    if not path:
        raise UsageError(
            f"found no WSGI or ASGI application in {folder}: looked in its Python files for a line such as"
            " app = Flask(__name__) or app = FastAPI(), or a function create_app()"
        )
    routes = routes_in(modules)
    dockerfile = folder / "Dockerfile"
    variables = [name for name in variables_in(modules) if SECRET.search(name)]
    return Project(
        files=files,
        requirements=wanted,
        reference=f"{module_of(path)}:{name}",
        asgi=asgi,
        factory=factory,
        port=port_in(modules, dockerfile.read_text("utf-8", "replace") if dockerfile.is_file() else ""),
        page="/" if "/" in routes or not routes else routes[0],
        health=next((route for route in HEALTH if {route, route + "/"} & set(routes)), ""),
        redis=any(re.match(r"(?i)redis\b", line) for line in wanted),
        secrets=tuple(variables),
        tested=bool(list(folder.glob("test*"))),
    )
