"""The address of Redis, password and all, may come from a file instead of the environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from friendlyhello.config import ConfigError, from_environment


@pytest.mark.parametrize("text", ["{}", "{}\n", "{}\r\n", "\ufeff{}\r\n", "\n {} \n"])
def test_the_address_of_redis_comes_from_the_file_that_holds_the_secret(tmp_path: Path, text: str) -> None:
    """REDIS_URL_FILE wins over REDIS_URL; line breaks do not count, nor does the mark that some editors begin with."""
    secret = tmp_path / "redis_url"
    secret.write_bytes(text.format("redis://:password@elsewhere:6379/0").encode())

    config = from_environment({"REDIS_URL_FILE": str(secret), "REDIS_URL": "redis://redis:6379/0"})

    assert config.redis_url == "redis://:password@elsewhere:6379/0"


def made(path: Path, kind: str) -> Path:
    """Return the path of a file, or of what is not one, that cannot hold an address."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "huge":
        path.write_bytes(b"redis://" + b"x" * 2**20)
    elif kind == "binary":
        path.write_bytes(b"\xff\xfe\x00")
    elif kind != "missing":
        path.write_text(kind, "utf-8")
    return path


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("missing", "file that can be read (No such file or directory)"),
        ("", "file with something in it"),
        ("\n", "file with something in it"),
        ("folder", "regular file"),
        ("pipe", "regular file"),
        ("huge", "file of at most 8192 bytes"),
        ("binary", "file of UTF-8 text"),
    ],
)
def test_a_secret_that_cannot_be_used_stops_the_start_with_a_sentence(tmp_path: Path, kind: str, sentence: str) -> None:
    """The file is named, with its variable; a pipe is not waited for, and a huge file not read to its end."""
    secret = made(tmp_path / "redis_url", kind)
    with pytest.raises(ConfigError) as error:
        from_environment({"REDIS_URL_FILE": str(secret)})

    assert str(error.value) == f"REDIS_URL_FILE must name a {sentence}, not {str(secret)!r}"


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null"])
def test_a_device_is_not_read(path: str) -> None:
    """It could give anything, for ever."""
    with pytest.raises(ConfigError, match=f"REDIS_URL_FILE must name a regular file, not '{path}'"):
        from_environment({"REDIS_URL_FILE": path})


def test_a_null_character_in_the_path_is_a_sentence() -> None:
    """Nothing can have that name."""
    with pytest.raises(ConfigError, match=r"REDIS_URL_FILE must name a file that can be read, not 'a\\x00'"):
        from_environment({"REDIS_URL_FILE": "a\0"})
