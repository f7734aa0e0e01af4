"""What the environment may say, and what the start says about the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from friendlyhello.config import Config, ConfigError, from_environment
from friendlyhello.counter import connect


def test_an_empty_environment_gives_the_defaults() -> None:
    """Nothing has to be set; a variable that is set to nothing counts as unset."""
    assert from_environment({}) == from_environment({"REVISION": "", "WEB_CONCURRENCY": ""}) == Config()
    assert from_environment({"NAME": ""}).name == "World"


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
        "unix:///run/re@dis.sock",
        "unix://:secret@/run/redis.sock",
        "redis://:a:b@c%2Fd@h",
        "redis://:grün@h",
        "rediss://h?ssl_ca_certs=/etc/ca.pem&ssl_check_hostname=false",
    ],
)
def test_the_usual_addresses_of_redis_are_accepted(url: str) -> None:
    """TCP, TLS and Unix sockets, with or without a port, a database and a password."""
    assert from_environment({"REDIS_URL": url}).redis_url == url


@pytest.mark.parametrize(
    ("url", "read"),
    [
        ("REDIS://:Secret@Cache", "redis://:Secret@Cache"),
        ("Rediss://Cache/1", "rediss://Cache/1"),
        ("UNIX:///Run/S", "unix:///Run/S"),
    ],
)
def test_a_scheme_may_be_in_capitals(url: str, read: str) -> None:
    """RFC 3986, 3.1; redis-py knows it in lower case only."""
    assert from_environment({"REDIS_URL": url}).redis_url == read
    connect(read)


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
        ("REDIS_URL", "http://redis"),
        ("REDIS_URL", "redis://"),
        ("REDIS_URL", "redis://h:0"),
        ("REDIS_URL", "redis://h:70000"),
        ("REDIS_URL", "redis://h/x"),
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
    ("url", "sentence"),
    [
        ("hunter2", "start with redis://, rediss:// or unix://, not '***'"),
        ("hunter2@h", "start with redis://, rediss:// or unix://, not '***'"),
        ("http://:hunter2@h", "start with redis://, rediss:// or unix://, not 'http://***@h'"),
        ("-----BEGIN\nhunter2", "have no spaces or control characters, not '***'"),
        ("redis://h h", "have no spaces or control characters, not 'redis://h h'"),
        ("redis://:hunter2@h:x", "be a URL with a host and a port from 1 to 65535, not 'redis://***@h:x'"),
        ("redis://user:hunter2", "be a URL with a host and a port from 1 to 65535, not 'redis://user:***'"),
        ("redis://[::1", "be a URL with a host and a port from 1 to 65535, not 'redis://[:***'"),
        *(
            (
                f"redis://:hunter{character}2@h:6379/0",
                "have / ? # [ and ] in a password as %2F %3F %23 %5B and %5D, not 'redis://***@h:6379/0'",
            )
            for character in "/?#[]"
        ),
        ("redis://:hunter2℀@h", "have letters beyond ASCII in a password percent-encoded, not 'redis://***@h'"),
        (
            "redis://u:hunter2@more@",
            "name a host and a port from 1 to 65535, such as redis://redis:6379/0, not 'redis://***@'",
        ),
        ("redis://h/0#hunter2", "have no # (in a password write %23), not 'redis://h/0#***'"),
        ("redis://h?password=hunter2&db=x", "have no option but db, not 'redis://h?***'"),
        ("redis://h?ssl_cert_reqs=none", "have no option but db, not 'redis://h?***'"),
        ("unix:///s?ssl_cert_reqs=none", "have no option but db, not 'unix:///s?***'"),
        ("redis://h/0?db=x", "have a number as its database, such as redis://redis:6379/0, not 'redis://h/0?***'"),
        ("rediss://h?ssl_cert_reqs=x", "have a usable ssl_cert_reqs, not 'rediss://h?***'"),
        ("rediss://h?ssl_check_hostname=x", "have a usable ssl_check_hostname, not 'rediss://h?***'"),
        ("rediss://h?ssl_ca_certs=", "have a usable ssl_ca_certs, not 'rediss://h?***'"),
    ],
)
def test_a_bad_address_of_redis_is_one_sentence_without_its_secrets(url: str, sentence: str, tmp_path: Path) -> None:
    """The sentence names what is wrong; of the value it shows what cannot be a secret, and of a file nothing."""
    file = tmp_path / "redis_url"
    file.write_text(url, "utf-8")
    with pytest.raises(ConfigError) as error:
        from_environment({"REDIS_URL": url})
    with pytest.raises(ConfigError) as hidden:
        from_environment({"REDIS_URL_FILE": str(file)})

    assert str(error.value) == f"REDIS_URL must {sentence}"
    what = sentence.rpartition(", not ")[0]
    assert str(hidden.value) == f"REDIS_URL_FILE must name a file with a URL that must {what}, not {str(file)!r}"
    assert "hunter" not in f"{error.value}{hidden.value}"


def test_settings_that_are_printed_have_no_secret() -> None:
    """A traceback or a debugger shows them."""
    assert "hunter2" not in repr(from_environment({"REDIS_URL": "redis://:hunter2@h"}))


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
        (("*",), "[2001:db8::1]:4711", "[2001:db8::1]:4711"),
        (("*",), "9.9.9.9 GET '/fake' 200 0.0 s x", "10.0.0.1"),
        (("*",), "9.9.9.9\x9b31m", "10.0.0.1"),
        (("*",), "9" * 65, "10.0.0.1"),
    ],
)
def test_who_asks_is_taken_from_trusted_proxies_alone(trusted: tuple[str, ...], forwarded: str, client: str) -> None:
    """X-Forwarded-For is believed from the configured addresses, and only what the proxy itself added."""
    assert Config(trusted_proxies=trusted).client("10.0.0.1", forwarded) == client


def test_a_client_on_a_unix_socket_is_not_a_trusted_proxy() -> None:
    """It has no address that could be in a network."""
    assert not Config(trusted_proxies=("10.0.0.0/8",)).trusts("")
