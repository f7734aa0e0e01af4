"""The address of Redis, password and all, may come from a file instead of the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from friendlyhello.config import ConfigError, from_environment


def test_the_address_of_redis_comes_from_the_file_that_holds_the_secret(tmp_path: Path) -> None:
    """REDIS_URL_FILE wins over REDIS_URL, and the line break at its end does not count."""
    secret = tmp_path / "redis_url"
    secret.write_text("redis://:password@elsewhere:6379/0\n", "utf-8")

    config = from_environment({"REDIS_URL_FILE": str(secret), "REDIS_URL": "redis://redis:6379/0"})

    assert config.redis_url == "redis://:password@elsewhere:6379/0"


@pytest.mark.parametrize("content", [None, "", "\n"])
def test_a_secret_that_is_not_there_stops_the_start_with_a_sentence(tmp_path: Path, content: str | None) -> None:
    """A missing or empty file is named, with its variable."""
    secret = tmp_path / "redis_url"
    if content is not None:
        secret.write_text(content, "utf-8")

    with pytest.raises(ConfigError, match=r"REDIS_URL_FILE must name a file .* not '.*redis_url'"):
        from_environment({"REDIS_URL_FILE": str(secret)})


def test_a_bad_address_in_the_file_is_shown_without_its_password(tmp_path: Path) -> None:
    """What is wrong with the address is said; its password is not."""
    secret = tmp_path / "redis_url"
    secret.write_text("http://:password@redis", "utf-8")

    with pytest.raises(ConfigError) as error:
        from_environment({"REDIS_URL_FILE": str(secret)})

    assert "password" not in str(error.value)
