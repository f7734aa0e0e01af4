"""Names and tags: which image, which revision, which version. All input is hostile until checked."""

from __future__ import annotations

import functools
import os
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lib.command import ROOT, Failure, UsageError, run

# The grammar of a name's components and of a tag: github.com/distribution/reference, regexp.go.
COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
HOST = re.compile(
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*(?::[0-9]{1,5})?"
)
SHA = re.compile(r"[0-9a-f]{40}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

# https://semver.org/#is-there-a-suggested-regular-expression-regex-to-check-a-semver-string
# without build metadata: `+` cannot stand in an image tag.
NUMBER = r"(?:0|[1-9][0-9]{0,8})"
IDENTIFIER = r"(?:0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)"
SEMVER = re.compile(
    rf"(?P<major>{NUMBER})\.(?P<minor>{NUMBER})\.(?P<patch>{NUMBER})"
    rf"(?:-(?P<pre>{IDENTIFIER}(?:\.{IDENTIFIER})*))?"
)

LONGEST = 255  # characters of a name without its tag: github.com/distribution/reference, NameTotalLengthMax

LOCAL_HOSTS = ("localhost", "127.0.0.1")
HUB_NAMES = ("docker.io", "index.docker.io", "registry-1.docker.io")
HUB_PAGES = ("docker.com", "hub.docker.com", "registry.hub.docker.com")  # its pages, which are taken for it

PIPELINE = "onedigest"
"""What labels, paths and objects of the pipeline are named after: it stays when the service is renamed."""

FORMER = "friendlyhello"
"""What they were named after in an earlier version: only to find what it left."""


@dataclass(frozen=True)
class ImageName:
    """`[registry/]namespace/repository`: an image without a tag. `registry` is "" for Docker Hub."""

    registry: str
    namespace: str
    repository: str

    def __str__(self) -> str:
        return "/".join(part for part in (self.registry, self.namespace, self.repository) if part)

    def tagged(self, tag: str) -> str:
        """Return `name:tag`."""
        return f"{self}:{check_tag(tag)}"

    def at(self, digest: str) -> str:
        """Return `name@digest`."""
        return f"{self}@{check_digest(digest)}"

    @property
    def is_local(self) -> bool:
        """Whether the registry is on this machine: the only place where stand-ins may go."""
        return self.registry.partition(":")[0] in LOCAL_HOSTS


def image_name(env: Mapping[str, str], repository: str) -> ImageName:
    """Return the image to publish as, from the environment and the Git repository's name.

    DOCKERHUB_USERNAME is who logs in, and the account that the image belongs to unless IMAGE_NAMESPACE names another
    one, as for a robot account or an organisation's. IMAGE_REPOSITORY replaces the repository's name, which is
    lower-cased; REGISTRY replaces Docker Hub. Raises UsageError that names the variable.
    """
    variable = "IMAGE_NAMESPACE" if env.get("IMAGE_NAMESPACE") else "DOCKERHUB_USERNAME"
    namespace = env.get(variable, "")
    if not all(COMPONENT.fullmatch(part) for part in namespace.split("/")):
        raise UsageError(
            f"{variable} is {namespace!r}, which is not an account name: lower-case letters and digits, with single ."
            " _ or - between them; set DOCKERHUB_USERNAME to the name you log in with, and IMAGE_NAMESPACE to the"
            " account that the image belongs to, if that is another one"
        )
    registry = env.get("REGISTRY", "").removesuffix("/")
    if registry in HUB_NAMES:
        registry = ""
    if registry.lower() in (*HUB_NAMES, *HUB_PAGES):
        raise UsageError(f"REGISTRY is {registry!r}; for Docker Hub, do not set it")
    if registry and not (is_registry(registry) and is_host(registry)):
        raise UsageError(f"REGISTRY is {registry!r}, which is not a host name such as ghcr.io or localhost:5000")
    name = env.get("IMAGE_REPOSITORY", "") or re.sub(r"[^a-z0-9._-]+", "-", repository.lower())
    if not COMPONENT.fullmatch(name):
        raise UsageError(
            f"{'IMAGE_REPOSITORY' if env.get('IMAGE_REPOSITORY') else 'the repository name'} is {name!r}, which"
            " is not an image name: lower-case letters and digits, with single . _ or - between them;"
            " set IMAGE_REPOSITORY"
        )
    image = ImageName(registry, namespace, name)
    if len(str(image)) > LONGEST:
        longest = max((variable, "IMAGE_REPOSITORY", "REGISTRY"), key=lambda one: len(env.get(one, "")))
        raise UsageError(
            f"{image} has {len(str(image))} characters, and an image's name at most {LONGEST}; set {longest}"
        )
    return image


def parse_reference(text: str) -> tuple[ImageName, str]:
    """Return the image and the tag or digest that a reference names, as docker reads it; raise UsageError.

    >>> parse_reference("localhost:5000/me/hello:1.2.3")
    (ImageName(registry='localhost:5000', namespace='me', repository='hello'), '1.2.3')
    """
    name, _, digest = text.partition("@")
    host, slash, rest = name.partition("/")
    host, rest = (host, rest) if slash and is_host(host) else ("", name)
    path, _, tag = rest.partition(":")
    namespace, _, repository = path.rpartition("/")
    registry = "" if host in HUB_NAMES else host
    if (
        (registry and not is_registry(registry))
        or len(name) > LONGEST
        or not all(COMPONENT.fullmatch(part) for part in path.split("/"))
        or ("@" in text and not DIGEST.fullmatch(digest))
        or (":" in rest and not TAG.fullmatch(tag))
    ):
        raise UsageError(
            f"{text!r} is not the name of an image: [registry/]namespace/repository:tag, or with @sha256:… for the tag"
        )
    # docker.io/library is where Docker Hub keeps what has no namespace.
    return ImageName(registry, namespace or ("" if registry else "library"), repository), digest or tag or "latest"


def is_host(text: str) -> bool:
    """Whether a reference's first component names a registry: a dot, a port, or localhost."""
    return "." in text or ":" in text or text == "localhost"


def is_registry(text: str) -> bool:
    """Whether a text has the form of a registry's host, with a port that there can be: RFC 1035, 2.3.4."""
    name, _, port = text.partition(":")
    return (
        bool(HOST.fullmatch(text)) and 0 < int(port or 443) < 65536 and all(len(part) < 64 for part in name.split("."))
    )


def check_tag(tag: str) -> str:
    """Return the tag, or raise UsageError."""
    if not TAG.fullmatch(tag):
        raise UsageError(f"{tag!r} is not a tag: 1 to 128 letters, digits, _ . or -, not starting with . or -")
    return tag


def check_sha(sha: str) -> str:
    """Return the full commit id, or raise UsageError."""
    if not SHA.fullmatch(sha):
        raise UsageError(f"{sha!r} is not a full commit id: 40 digits of 0-9 and a-f, as git rev-parse HEAD prints")
    return sha


def check_digest(digest: str) -> str:
    """Return the digest, or raise UsageError."""
    if not DIGEST.fullmatch(digest):
        raise UsageError(f"{digest!r} is not a digest: sha256: and 64 digits of 0-9 and a-f")
    return digest


@functools.total_ordering
@dataclass(frozen=True)
class Version:
    """A semantic version, ordered by precedence (SemVer 2.0, rule 11). `pre` is "" if final."""

    major: int
    minor: int
    patch: int
    pre: str = ""

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}" + (f"-{self.pre}" if self.pre else "")

    def __lt__(self, other: Version) -> bool:
        return self._key() < other._key()

    def _key(self) -> tuple[object, ...]:
        # A final version follows its pre-releases; numbers come before words, and a longer list of
        # identifiers after its own beginning.
        identifiers = tuple(
            (0, int(part), "") if part.isdigit() else (1, 0, part) for part in (self.pre.split(".") if self.pre else ())
        )
        return (self.major, self.minor, self.patch, not self.pre, identifiers)


def parse_version(text: str) -> Version:
    """Return the version that `1.2.3` or `1.3.0-rc.1` names, or raise UsageError."""
    match = SEMVER.fullmatch(text)
    if not match:
        raise UsageError(
            f"{text!r} is not a version: MAJOR.MINOR.PATCH such as 1.2.3, or 1.3.0-rc.1 for a pre-release"
            " (https://semver.org)"
        )
    return Version(int(match["major"]), int(match["minor"]), int(match["patch"]), match["pre"] or "")


@dataclass(frozen=True)
class Commit:
    """The commit that is being built: what the image's labels and dates come from.

    `revision` is the full commit id, with `-dirty` behind it if the work tree has changes that
    are in no commit. `date` is the commit's, in seconds since 1970. `repository` is the name that
    Git knows this project by.
    """

    sha: str
    dirty: bool
    date: int
    repository: str
    url: str

    @property
    def revision(self) -> str:
        return self.sha + ("-dirty" if self.dirty else "")


def git(*arguments: str, root: Path = ROOT) -> str:
    """Run git in the repository and return its output without the last line break."""
    return run(["git", "-C", str(root), *arguments]).stdout.rstrip("\n")


def checked_out(root: Path = ROOT, env: Mapping[str, str] = os.environ) -> Commit:
    """Return the commit that is checked out, or raise Failure if there is none."""
    inside = run(["git", "-C", str(root), "rev-parse", "--show-toplevel"], check=False)
    if trusted := re.search(r"dubious ownership[^$]*safe\.directory (.+)", inside.stderr):
        raise Failure(
            f"{root} belongs to another user, so git does not read it; if you trust it, run git config --global --add"
            f" safe.directory {trusted[1]}"
        )
    if inside.returncode != 0:
        detail = inside.stderr.strip().splitlines()
        raise Failure(
            f"{root} is not a Git repository ({detail[0] if detail else 'git failed'}); the image is named after a"
            " commit, so clone the project, or run git init, git add . and git commit first"
        )
    if run(["git", "-C", str(root), "rev-parse", "--verify", "--quiet", "HEAD"], check=False).returncode:
        raise Failure(f"{root} has no commit yet; the image is named after a commit, so run git add . and git commit")
    if run(["git", "-C", str(root), "rev-parse", "--show-object-format"], check=False).stdout.strip() == "sha256":
        raise Failure(f"{root} is a repository of the format sha256, which GitHub does not take; make it with sha1")
    remote = run(["git", "-C", str(root), "remote", "get-url", "origin"], check=False).stdout.strip()
    slug = env.get("GITHUB_REPOSITORY", "")
    url = f"{env.get('GITHUB_SERVER_URL', 'https://github.com')}/{slug}" if slug else public_url(remote)
    return Commit(
        sha=check_sha(git("rev-parse", "HEAD", root=root)),
        dirty=bool(git("status", "--porcelain", root=root)),
        date=int(git("show", "-s", "--format=%ct", "HEAD", root=root)),
        repository=slug.rpartition("/")[2] or repository_name(remote) or root.name,
        url=url,
    )


def repository_name(remote: str) -> str:
    """Return the last part of a remote's address without .git, or "" if that is not a name, as in `..`."""
    name = urllib.parse.unquote(re.split(r"[/:\\]", remote.rstrip("/\\"))[-1].removesuffix(".git"))
    return "" if name in (".", "..") else name


def without_secrets(address: str, instead: str = "***@") -> str:
    """Return an address with `instead` of what may be a secret: a password, or any user's name in front of a web host.

    A token can stand there for the name. What ssh takes has a user, and never a password.
    """
    text = re.sub(r"(?i)^(https?://)[^/]*@", lambda found: found[1] + instead, address)
    return re.sub(r"^((?:\w+://)?[^/@:]+):[^/]*@", lambda found: f"{found[1]}{instead and ':'}{instead or '@'}", text)


def public_url(remote: str) -> str:
    """Return a remote's address as a web page's, without any user or password, or ""."""
    # Up to the last @ before the path: a password may have one in it.
    match = re.fullmatch(
        r"(?:(?i:https?|ssh)://(?:[^/]*@)?|[^/:]+@)(\[[0-9A-Fa-f:.]+\]|[^/:@\[\]]+)(?::[0-9]+)?[:/](.+?)(?:\.git)?/?",
        remote,
    )
    if not match:
        return ""
    # https://learn.microsoft.com/azure/devops/repos/git/use-ssh-keys-to-authenticate
    azure = re.fullmatch(r"v3/([^/]+/[^/]+)/([^/]+)", match[2])
    if azure and match[1] in ("ssh.dev.azure.com", "vs-ssh.visualstudio.com"):
        return f"https://dev.azure.com/{azure[1]}/_git/{azure[2]}"
    return f"https://{match[1]}/{match[2]}"
