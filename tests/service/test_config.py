"""What the environment may say, and what the start says about the rest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from friendlyhello.config import Config, ConfigError, from_environment, without_password


def test_an_empty_environment_gives_the_defaults() -> None:
    """Nothing has to be set; a variable that is set to nothing counts as unset."""
    assert from_environment({}) == from_environment({"NAME": "", "WEB_CONCURRENCY": ""}) == Config()


def test_every_variable_is_read() -> None:
    """Each setting comes from its variable."""
    config = from_environment(
        {
            "NAME": "Grüße 👩‍🚀",
            "REDIS_URL": "rediss://user:secret@cache:6380/3?ssl_cert_reqs=none",
            "REVISION": "0123abc-dirty",
            "WEB_CONCURRENCY": "4",
            "FORWARDED_ALLOW_IPS": "10.0.0.0/8, ::1",
            "METRICS_PORT": "9100",
        }
    )

    assert config == Config(
        name="Grüße 👩‍🚀",
        redis_url="rediss://user:secret@cache:6380/3?ssl_cert_reqs=none",
        revision="0123abc-dirty",
        workers=4,
        trusted_proxies=("10.0.0.0/8", "::1"),
        metrics_port=9100,
    )


@pytest.mark.parametrize(
    "url",
    [
        "redis://redis",
        "redis://[::1]:6379/0",
        "redis://h?db=2",
        "rediss://:p%40ss@h:1/9",
        "unix:///run/redis.sock?db=1",
    ],
)
def test_the_usual_addresses_of_redis_are_accepted(url: str) -> None:
    """TCP, TLS and Unix sockets, with or without a port, a database and a password."""
    assert from_environment({"REDIS_URL": url}).redis_url == url


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("NAME", "two\nlines"),
        ("NAME", "\udcff"),
        ("REVISION", "with space"),
        ("REVISION", "line\r\nSet-Cookie:x"),
        ("REVISION", "é"),
        ("REVISION", "x" * 129),
        ("WEB_CONCURRENCY", "0"),
        ("WEB_CONCURRENCY", "-1"),
        ("WEB_CONCURRENCY", "two"),
        ("WEB_CONCURRENCY", "9" * 9),
        ("WEB_CONCURRENCY", "٣"),
        ("METRICS_PORT", "65536"),
        ("FORWARDED_ALLOW_IPS", "10.0.0.0/33"),
        ("FORWARDED_ALLOW_IPS", "proxy"),
        ("FORWARDED_ALLOW_IPS", "127.0.0.1,"),
        ("REDIS_URL", "redis"),
        ("REDIS_URL", "http://redis"),
        ("REDIS_URL", "redis://"),
        ("REDIS_URL", "redis://h:0"),
        ("REDIS_URL", "redis://h:70000"),
        ("REDIS_URL", "redis://h:port"),
        ("REDIS_URL", "redis://[::1"),
        ("REDIS_URL", "redis://h/x"),
        ("REDIS_URL", "redis://h/0?db=x"),
        ("REDIS_URL", "redis://h/0?socket_timeout=9"),
        ("REDIS_URL", "redis://h h"),
        ("REDIS_URL", "redis://h/0#1"),
        ("REDIS_URL", "unix://run/redis.sock"),
    ],
)
def test_a_bad_value_is_one_sentence_that_names_variable_and_value(variable: str, value: str) -> None:
    """Whoever set it reads which variable it was, what it may be, and what it was."""
    with pytest.raises(ConfigError) as error:
        from_environment({variable: value})

    sentence = str(error.value)
    assert sentence.startswith(f"{variable} must ")
    assert sentence.endswith(f"not {value!r}")
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:hunter2@h:x", "redis://***@h:x"),
        ("redis://user:hunter2@h:x", "redis://***@h:x"),
        ("redis://user:hunter2@more@h", "redis://***@h"),
        ("redis://u:hunter/2@h", "redis://***@h"),
        ("redis://h?password=hunter2&db=x", "redis://h?password=***&db=x"),
        ("hunter2@h", "***@h"),
        ("redis://h:6379", "redis://h:6379"),
    ],
)
def test_a_password_is_never_shown(url: str, shown: str) -> None:
    """Wherever it stands in the URL, and however broken the URL is."""
    assert without_password(url) == shown


@given(st.text())
def test_no_text_in_a_url_gets_past_the_check_or_leaks(password: str) -> None:
    """Whatever the password, the sentence about the port is the same."""
    with pytest.raises(ConfigError) as error:
        from_environment({"REDIS_URL": f"redis://user:{password}@h:not-a-port"})

    assert str(error.value).endswith("not 'redis://***@h:not-a-port'")


@given(
    st.dictionaries(st.sampled_from(["NAME", "REDIS_URL", "REVISION", "WEB_CONCURRENCY", "METRICS_PORT"]), st.text())
)
def test_any_environment_gives_settings_or_a_sentence(environ: dict[str, str]) -> None:
    """No value makes reading the environment fail in any other way."""
    try:
        config = from_environment(environ)
    except ConfigError as error:
        variable = str(error).partition(" ")[0]
    else:
        variable = "NAME"
        config.name.encode()
        config.revision.encode("ascii")

    assert variable in {"NAME", *environ}


@pytest.mark.parametrize(
    ("trusted", "forwarded", "client"),
    [
        ((), "203.0.113.9", "10.0.0.1"),
        (("192.0.2.0/24",), "203.0.113.9", "10.0.0.1"),
        (("10.0.0.0/8",), "", "10.0.0.1"),
        (("10.0.0.0/8",), "203.0.113.9", "203.0.113.9"),
        (("10.0.0.0/8",), "made-up, 203.0.113.9", "203.0.113.9"),
        (("*",), "203.0.113.9", "203.0.113.9"),
    ],
)
def test_who_asks_is_taken_from_trusted_proxies_alone(trusted: tuple[str, ...], forwarded: str, client: str) -> None:
    """X-Forwarded-For is believed from the configured addresses, and only what the proxy itself added."""
    assert Config(trusted_proxies=trusted).client("10.0.0.1", forwarded) == client


def test_a_client_on_a_unix_socket_is_no_trusted_proxy() -> None:
    """It has no address that could be in a network."""
    assert not Config(trusted_proxies=("10.0.0.0/8",)).trusts("")
