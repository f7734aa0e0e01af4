"""Which image, which revision, which version: every input is hostile until it was checked."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.command import ROOT, Failure, UsageError
from lib.names import (
    ImageName,
    Version,
    check_digest,
    check_sha,
    check_tag,
    checked_out,
    image_name,
    parse_reference,
    parse_version,
    public_url,
    repository_name,
    without_secrets,
)

SHA = "0123456789abcdef0123456789abcdef01234567"
DIGEST = "sha256:" + "a" * 64
numbers = st.integers(0, 10**8)
identifiers = st.one_of(numbers.map(str), st.from_regex(r"[0-9]*[a-zA-Z-][0-9a-zA-Z-]*", fullmatch=True))
versions = st.builds(Version, numbers, numbers, numbers, st.lists(identifiers, max_size=4).map(".".join))


@pytest.mark.parametrize(
    ("env", "repository", "expected"),
    [
        ({"DOCKERHUB_USERNAME": "me"}, "Hello-World", "me/hello-world"),
        ({"DOCKERHUB_USERNAME": "me", "IMAGE_REPOSITORY": "page"}, "Hello", "me/page"),
        ({"DOCKERHUB_USERNAME": "me", "REGISTRY": "ghcr.io"}, "hello", "ghcr.io/me/hello"),
        ({"DOCKERHUB_USERNAME": "me", "REGISTRY": "localhost:5000/"}, "hello", "localhost:5000/me/hello"),
        ({"DOCKERHUB_USERNAME": "me", "REGISTRY": "docker.io"}, "hello", "me/hello"),
        ({"DOCKERHUB_USERNAME": "team/sub", "REGISTRY": "ghcr.io"}, "hello", "ghcr.io/team/sub/hello"),
        ({"DOCKERHUB_USERNAME": "robot$ci", "IMAGE_NAMESPACE": "team"}, "hello", "team/hello"),
        (
            {"DOCKERHUB_USERNAME": "org+ci", "IMAGE_NAMESPACE": "org", "REGISTRY": "quay.io"},
            "hello",
            "quay.io/org/hello",
        ),
        ({"DOCKERHUB_USERNAME": "Me@Example", "IMAGE_NAMESPACE": "a/b"}, "hello", "a/b/hello"),
        ({"DOCKERHUB_USERNAME": "me", "IMAGE_NAMESPACE": ""}, "hello", "me/hello"),
        ({"DOCKERHUB_USERNAME": "me"}, "My  App", "me/my-app"),
    ],
)
def test_image_name(env: dict[str, str], repository: str, expected: str) -> None:
    """The variables say where an image goes; the Git repository names it."""
    assert str(image_name(env, repository)) == expected


@pytest.mark.parametrize(
    ("env", "variable", "value"),
    [
        ({"DOCKERHUB_USERNAME": "Me"}, "DOCKERHUB_USERNAME", "'Me'"),
        ({"DOCKERHUB_USERNAME": ""}, "DOCKERHUB_USERNAME", "''"),
        ({"DOCKERHUB_USERNAME": "robot$ci"}, "DOCKERHUB_USERNAME", "'robot$ci'"),
        ({"DOCKERHUB_USERNAME": "me", "IMAGE_NAMESPACE": "Team"}, "IMAGE_NAMESPACE", "'Team'"),
        ({"DOCKERHUB_USERNAME": "me", "IMAGE_NAMESPACE": "a//b"}, "IMAGE_NAMESPACE", "'a//b'"),
        ({"DOCKERHUB_USERNAME": "me; rm -rf /"}, "DOCKERHUB_USERNAME", "'me; rm -rf /'"),
        ({"DOCKERHUB_USERNAME": "me", "IMAGE_REPOSITORY": "a b"}, "IMAGE_REPOSITORY", "'a b'"),
        ({"DOCKERHUB_USERNAME": "me", "IMAGE_REPOSITORY": "a;rm"}, "IMAGE_REPOSITORY", "'a;rm'"),
        ({"DOCKERHUB_USERNAME": "me", "IMAGE_REPOSITORY": "a\n"}, "IMAGE_REPOSITORY", r"'a\n'"),
        ({"DOCKERHUB_USERNAME": "me", "REGISTRY": "https://ghcr.io"}, "REGISTRY", "'https://ghcr.io'"),
        ({"DOCKERHUB_USERNAME": "me", "REGISTRY": "registry"}, "REGISTRY", "'registry'"),
        ({"DOCKERHUB_USERNAME": "me", "REGISTRY": "a.b/c"}, "REGISTRY", "'a.b/c'"),
        ({"DOCKERHUB_USERNAME": "me", "REGISTRY": "localhost:99999"}, "REGISTRY", "'localhost:99999'"),
        ({"DOCKERHUB_USERNAME": "me", "REGISTRY": "localhost:0"}, "REGISTRY", "'localhost:0'"),
        ({"DOCKERHUB_USERNAME": "me", "REGISTRY": f"{'a' * 64}.io"}, "REGISTRY", f"'{'a' * 64}.io'"),
        ({"DOCKERHUB_USERNAME": "me", "REGISTRY": "Docker.io"}, "REGISTRY", "'Docker.io'; for Docker Hub"),
        ({"DOCKERHUB_USERNAME": "me", "REGISTRY": "hub.docker.com"}, "REGISTRY", "'hub.docker.com'; for Docker Hub"),
    ],
)
def test_a_wrong_variable_is_named_with_its_value(env: dict[str, str], variable: str, value: str) -> None:
    """A wrong setting gets one sentence that says which variable it is and what is in it."""
    with pytest.raises(UsageError) as caught:
        image_name(env, "hello")
    assert str(caught.value).startswith(f"{variable} is {value}")


@pytest.mark.parametrize("variable", ["DOCKERHUB_USERNAME", "IMAGE_NAMESPACE", "IMAGE_REPOSITORY"])
def test_a_name_that_is_too_long(variable: str) -> None:
    """An image's name has at most 255 characters; the sentence says which variable to change."""
    env = {"DOCKERHUB_USERNAME": "me", "REGISTRY": "ghcr.io"}
    rest = len(str(image_name({**env, variable: "a"}, "hello"))) - 1
    assert len(str(image_name({**env, variable: "a" * (255 - rest)}, "hello"))) == 255
    with pytest.raises(UsageError, match=f"has 256 characters, .* at most 255; set {variable}$"):
        image_name({**env, variable: "a" * (256 - rest)}, "hello")


def test_a_repository_that_names_no_image_says_what_to_set() -> None:
    """A Git repository may be called what no image can be."""
    with pytest.raises(UsageError, match="set IMAGE_REPOSITORY"):
        image_name({"DOCKERHUB_USERNAME": "me"}, "_hello_")


@pytest.mark.parametrize("registry", ["localhost:5000", "127.0.0.1:5000"])
def test_only_this_machine_is_local(registry: str) -> None:
    """Stand-ins may go to a registry on this machine and nowhere else."""
    assert ImageName(registry, "me", "hello").is_local
    assert not ImageName(f"{registry.partition(':')[0]}.example.com", "me", "hello").is_local
    assert not ImageName("", "localhost", "hello").is_local


@pytest.mark.parametrize("sha", [SHA[:39], SHA + "0", SHA.upper(), "", f"{SHA}\n", "main"])
def test_a_sha_is_forty_digits(sha: str) -> None:
    """A short commit id, or a branch, is not a full one."""
    assert check_sha(SHA) == SHA
    with pytest.raises(UsageError, match="40 digits"):
        check_sha(sha)


@pytest.mark.parametrize("digest", ["a" * 64, "sha256:" + "a" * 63, "sha512:" + "a" * 64, DIGEST + "\n", ""])
def test_a_digest_is_sha256(digest: str) -> None:
    """Half a digest is not a digest."""
    assert check_digest(DIGEST) == DIGEST
    with pytest.raises(UsageError, match="not a digest"):
        check_digest(digest)


@pytest.mark.parametrize("tag", ["", ".a", "-a", "a b", "a/b", "a:b", "a" * 129, "ä", "a\n"])
def test_a_tag_is_what_registries_take(tag: str) -> None:
    """What a registry would refuse is refused before it is asked."""
    assert check_tag("1.2.3-rc.1_x") == "1.2.3-rc.1_x"
    with pytest.raises(UsageError, match="is not a tag"):
        check_tag(tag)


@pytest.mark.parametrize(
    "text", ["1.2", "v1.2.3", "1.2.3.4", "01.2.3", "1.2.3-", "1.2.3-01", "1.2.3+build", "", "1.2.3\n"]
)
def test_a_version_is_semver(text: str) -> None:
    """What is not a semantic version, or cannot be a tag, is refused."""
    with pytest.raises(UsageError, match="is not a version"):
        parse_version(text)


def test_versions_are_ordered_as_semver_orders_them() -> None:
    """The example of https://semver.org, rule 11, and numbers above nine."""
    ordered = (
        "1.0.0-alpha 1.0.0-alpha.1 1.0.0-alpha.beta 1.0.0-beta 1.0.0-beta.2 1.0.0-beta.11 1.0.0-rc.1 1.0.0 1.9.0 1.10.0"
    )
    parsed = [parse_version(text) for text in ordered.split()]
    shuffled = parsed[::-1]
    assert sorted(shuffled) == parsed


@given(versions)
def test_a_version_survives_being_written(version: Version) -> None:
    """Writing and reading a version changes nothing, unless its identifiers are not valid."""
    try:
        assert parse_version(str(version)) == version
    except UsageError:
        assert any(part.isdigit() and part != "0" and part.startswith("0") for part in version.pre.split("."))


@given(versions, versions, versions)
def test_the_order_of_versions_is_an_order(one: Version, two: Version, three: Version) -> None:
    """Of two versions one is higher or they are the same, and it carries over."""
    assert (one < two) + (one == two) + (two < one) == 1
    if one < two < three:
        assert one < three


@given(st.text(max_size=80))
def test_any_text_is_a_name_or_a_sentence(text: str) -> None:
    """No input ends in a traceback, and what passes holds nothing that a shell or a URL could trip over."""
    for check in (check_tag, check_sha, check_digest, lambda text: str(parse_version(text))):
        try:
            assert not set(check(text)) & set(" ;&|$`'\"\\\n/@")
        except UsageError:
            continue


@pytest.mark.parametrize(
    ("remote", "name", "url"),
    [
        ("https://github.com/me/Hello.git", "Hello", "https://github.com/me/Hello"),
        ("https://me:secret@github.com/me/hello", "hello", "https://github.com/me/hello"),
        ("git@github.com:me/hello.git", "hello", "https://github.com/me/hello"),
        ("ssh://git@example.com:2222/me/hello", "hello", "https://example.com/me/hello"),
        ("/srv/git/hello", "hello", ""),
        ("/srv/git/My App", "My App", ""),
        ("git@ssh.dev.azure.com:v3/org/project/Hello", "Hello", "https://dev.azure.com/org/project/_git/Hello"),
        ("org@vs-ssh.visualstudio.com:v3/org/p/Hello", "Hello", "https://dev.azure.com/org/p/_git/Hello"),
        ("ssh://git@ssh.dev.azure.com/v3/org/p/Hello", "Hello", "https://dev.azure.com/org/p/_git/Hello"),
        ("git@ssh.dev.azure.com:v3/org/My%20P/My%20R", "My R", "https://dev.azure.com/org/My%20P/_git/My%20R"),
        ("https://org@dev.azure.com/org/p/_git/Hello", "Hello", "https://dev.azure.com/org/p/_git/Hello"),
        ("git@example.com:v3/a/b/c", "c", "https://example.com/v3/a/b/c"),
        ("https://me:se@cret@github.com/me/hello", "hello", "https://github.com/me/hello"),
        ("ssh://me:se@cret@github.com/me/hello", "hello", "https://github.com/me/hello"),
        ("HTTPS://GitHub.com/me/hello", "hello", "https://GitHub.com/me/hello"),
        ("git@[fd00::2]:me/hello.git", "hello", "https://[fd00::2]/me/hello"),
        ("https://[fd00::2]:8443/me/hello", "hello", "https://[fd00::2]/me/hello"),
        ("ssh://git@[fd00::2]:22/me/hello", "hello", "https://[fd00::2]/me/hello"),
        (r"C:\src\hello", "hello", ""),
        (".", "", ""),
        ("../", "", ""),
        ("", "", ""),
    ],
)
def test_remotes(remote: str, name: str, url: str) -> None:
    """A remote's address becomes a page's, and loses a password on the way."""
    assert (repository_name(remote), public_url(remote)) == (name, url)


@pytest.mark.parametrize(
    ("address", "shown", "kept"),
    [
        ("https://me:secret@github.com/me/hello", "https://***@github.com/me/hello", "https://github.com/me/hello"),
        ("https://me:se@cret@github.com/me/x", "https://***@github.com/me/x", "https://github.com/me/x"),
        ("https://secret@github.com/me/hello", "https://***@github.com/me/hello", "https://github.com/me/hello"),
        ("HTTP://secret@localhost:3000/x", "HTTP://***@localhost:3000/x", "HTTP://localhost:3000/x"),
        ("ssh://me:secret@host:22/x", "ssh://me:***@host:22/x", "ssh://me@host:22/x"),
        ("me:secret@host:22", "me:***@host:22", "me@host:22"),
        *((plain, plain, plain) for plain in ("git@github.com:me/hello.git", "ssh://git@host/x", "/srv/a@b", "../x")),
        *((plain, plain, plain) for plain in ("https://github.com/a@b/c", "host:path/a@b", "file:///srv/a@b", "")),
    ],
)
def test_an_address_without_its_secrets(address: str, shown: str, kept: str) -> None:
    """What is printed, or kept in a file, has no password and no token; all else of it stays."""
    assert (without_secrets(address), without_secrets(address, "")) == (shown, kept)


def git(folder: Path, *arguments: str) -> None:
    """Run git in a folder, as somebody."""
    subprocess.run(
        ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@example.com", *arguments],
        check=True,
        capture_output=True,
    )


def test_source(tmp_path: Path) -> None:
    """A commit is what it is; changes that are in no commit are marked."""
    git(tmp_path, "init", "-q")
    with pytest.raises(Failure, match="no commit yet"):
        checked_out(tmp_path, {})
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "one")
    clean = checked_out(tmp_path, {})
    assert (clean.revision, clean.repository, clean.url) == (clean.sha, tmp_path.name, "")
    (tmp_path / "file").touch()
    assert checked_out(tmp_path, {}).revision == f"{clean.sha}-dirty"
    assert checked_out(tmp_path, {"GITHUB_REPOSITORY": "me/Hello"}).url == "https://github.com/me/Hello"
    assert checked_out(tmp_path, {"GITHUB_REPOSITORY": "me/Hello"}).repository == "Hello"


def test_a_repository_of_another_format(tmp_path: Path) -> None:
    """GitHub takes none with sha256, and a commit's id there has more digits than a tag of ours."""
    git(tmp_path, "init", "-q", "--object-format=sha256")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "one")
    with pytest.raises(Failure, match="is a repository of the format sha256, which GitHub does not take"):
        checked_out(tmp_path, {})


def test_a_remote_that_names_nothing(tmp_path: Path) -> None:
    """Where the remote is a folder without a name, the project is called what its own folder is called."""
    folder = tmp_path / "hello"
    folder.mkdir()
    git(folder, "init", "-q")
    git(folder, "remote", "add", "origin", ".")
    git(folder, "commit", "-q", "--allow-empty", "-m", "one")
    assert str(image_name({"DOCKERHUB_USERNAME": "me"}, checked_out(folder, {}).repository)) == "me/hello"


def test_a_folder_with_a_blank_in_its_name(tmp_path: Path) -> None:
    """A project without a remote is called what its folder is called, as an image can be."""
    folder = tmp_path / "My App"
    folder.mkdir()
    git(folder, "init", "-q")
    git(folder, "commit", "-q", "--allow-empty", "-m", "one")
    assert str(image_name({"DOCKERHUB_USERNAME": "me"}, checked_out(folder, {}).repository)) == "me/my-app"


def test_a_repository_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Git does not read what others own; the sentence has the command that lets it, and the command works."""
    folder = tmp_path / "My App"
    folder.mkdir()
    git(folder, "init", "-q")
    git(folder, "commit", "-q", "--allow-empty", "-m", "one")
    # Git's own switch for testing this: t/t0033-safe-directory.sh in its sources.
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    with pytest.raises(Failure, match="belongs to another user, so git does not read it; if you trust it") as caught:
        checked_out(folder, {})
    command = str(caught.value).partition("run ")[2]
    assert command.startswith("git config --global --add safe.directory ")
    subprocess.run(["sh", "-c", command], check=True)
    assert checked_out(folder, {}).repository == "My App"


def test_a_clone_on_windows_has_the_same_bytes(tmp_path: Path) -> None:
    """Whatever git is told about line ends, every file is as it was committed."""
    clone = ["git", "clone", "--quiet", "--config", "core.autocrlf=true", "--config", "core.eol=crlf", str(ROOT)]
    subprocess.run([*clone, str(tmp_path / "clone")], check=True)
    listing = ["git", "-C", str(tmp_path / "clone"), "ls-files", "--eol"]
    lines = subprocess.run(listing, check=True, capture_output=True, text=True).stdout.splitlines()
    assert len(lines) > 100
    assert not [line for line in lines if "w/crlf" in line or "w/mixed" in line]


@pytest.mark.parametrize(
    ("text", "image", "name"),
    [
        ("me/hello", ImageName("", "me", "hello"), "latest"),
        ("me/hello:1.2.3", ImageName("", "me", "hello"), "1.2.3"),
        ("docker.io/me/hello:1", ImageName("", "me", "hello"), "1"),
        ("redis:8", ImageName("", "library", "redis"), "8"),
        ("localhost:5000/me/hello:1", ImageName("localhost:5000", "me", "hello"), "1"),
        ("ghcr.io/team/sub/hello:1", ImageName("ghcr.io", "team/sub", "hello"), "1"),
        (f"ghcr.io/me/hello@{DIGEST}", ImageName("ghcr.io", "me", "hello"), DIGEST),
        (f"me/hello:1@{DIGEST}", ImageName("", "me", "hello"), DIGEST),
    ],
)
def test_references(text: str, image: ImageName, name: str) -> None:
    """What docker calls an image, taken apart; a digest says more than a tag."""
    assert parse_reference(text) == (image, name)


@pytest.mark.parametrize(
    "text",
    [
        *("", "Me/hello", "me/hello:", "me/hello@", "me/hello@sha256:1", "me//hello", "a b", "-x", "me/hello:1:2", "/"),
        *("localhost:99999/me/hello", "localhost:0/me/hello", f"me/{'a' * 253}"),
    ],
)
def test_what_is_not_a_reference(text: str) -> None:
    """One sentence with an example."""
    with pytest.raises(UsageError, match="is not the name of an image"):
        parse_reference(text)


def test_no_repository_says_what_to_do(tmp_path: Path) -> None:
    """Unpacked from an archive, the project says why it needs Git."""
    with pytest.raises(Failure, match=r"is not a Git repository .* run git init"):
        checked_out(tmp_path, {})
