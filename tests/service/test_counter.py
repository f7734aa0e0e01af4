"""Does the counter count right: with a real Redis, and with one that fails in every way it can."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from friendlyhello.counter import KEY, LONGEST_RETRY, PATIENCE, TIMEOUT, Counter, CounterError, connect
from service.running import LIMIT, Flood, Line, RedisServer, black_hole, tls_redis, wait_until
from support.ports import free_port


@pytest.fixture
def line(redis_server: RedisServer) -> Line:
    """A line to a real Redis that can be cut."""
    return Line(redis_server.port)


def counting(url: str) -> Counter:
    """Return a counter that has been started."""
    counter = Counter(connect(url))
    counter.start()
    return counter


def count_again(counter: Counter) -> int:
    """Count one visit as soon as that is possible."""

    def attempt() -> int | None:
        try:
            return counter.add()
        except CounterError:
            return None

    return int(wait_until(attempt, what="the end of the outage"))


def reason(counter: Counter) -> str:
    """Return why a visit cannot be counted."""
    with pytest.raises(CounterError) as error:
        counter.add()
    return str(error.value)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that a page of the test's own thread was ready to wait for its number, each time that it was."""
    found: list[float] = []
    page, wait = threading.current_thread(), threading.Event.wait

    def noted(event: threading.Event, timeout: float | None = None) -> bool:
        if threading.current_thread() is page and timeout is not None:
            found.append(timeout)
        return wait(event, timeout)

    monkeypatch.setattr(threading.Event, "wait", noted)
    return found


@pytest.mark.usefixtures("patient")
def test_each_of_many_visits_at_once_has_a_number_of_its_own(redis_server: RedisServer) -> None:
    """Visits that share a round trip do not share a number, and none is left out."""
    counters = [counting(redis_server.url) for _ in range(2)]

    with ThreadPoolExecutor(32) as visitors:
        numbers = list(visitors.map(lambda visit: counters[visit % 2].add(), range(2000)))

    assert sorted(numbers) == list(range(1, 2001))
    assert redis_server.client.get(KEY) == b"2000"


@pytest.mark.usefixtures("patient")
def test_visits_at_once_share_round_trips_and_one_connection(redis_server: RedisServer, line: Line) -> None:
    """A worker needs one connection, and far fewer commands than it has visits."""
    counter = counting(line.url)
    counter.add()
    before = redis_server.client.info("commandstats")["cmdstat_incrby"]["calls"]
    line.answers.clear()
    with ThreadPoolExecutor(50) as visitors:
        numbers = [visitors.submit(counter.add)]
        wait_until(lambda: redis_server.client.get(KEY) == b"2", what="the first visit")
        numbers += [visitors.submit(counter.add) for _ in range(49)]
        wait_until(lambda: counter._next.visits == 49, what="the other visits")
        line.answers.set()

    assert sorted(number.result() for number in numbers) == list(range(2, 52))
    assert redis_server.client.info("commandstats")["cmdstat_incrby"]["calls"] == before + 2
    assert redis_server.client.info("clients")["connected_clients"] == 2  # the counter's and this test's


@pytest.mark.usefixtures("patient")
def test_asking_for_the_number_does_not_count(redis_server: RedisServer) -> None:
    """Adding 0 visits does not count one."""
    counter = counting(redis_server.url)

    assert [counter.add(0), counter.add(), counter.add(0)] == [0, 1, 1]


def test_a_visit_that_got_no_answer_is_not_counted_twice(
    redis_server: RedisServer, line: Line, patient: Callable[[float], None]
) -> None:
    """Redis counted it, the answer was lost, and nothing is sent again: the next number is the next one."""
    counter = counting(line.url)
    assert counter.add() == 1

    line.answers.clear()
    patient(0.25)
    assert "Timeout" in reason(counter)
    patient(LIMIT)
    line.answers.set()

    assert count_again(counter) == 3
    assert redis_server.client.get(KEY) == b"3"


def test_a_visit_that_was_given_up_is_not_sent_later(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    """A page that was shown without a number does not count afterwards, when the name is found at last."""
    found = threading.Event()
    real = socket.getaddrinfo

    def hanging(*arguments: Any, **options: Any) -> Any:
        found.wait()
        return real(*arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    counter = counting(redis_server.url)
    assert [reason(counter) for _ in range(2)] == ["no answer within 0.4 s"] * 2
    assert waits == [PATIENCE]
    monkeypatch.setattr("friendlyhello.counter.PATIENCE", LIMIT)
    found.set()

    assert count_again(counter) == 1


@pytest.mark.parametrize("failure", ["refused", "unresolvable", "black-holed", "mute"])
def test_an_outage_costs_one_visit_half_a_second_at_most_and_the_next_nothing(failure: str, waits: list[float]) -> None:
    """Whether connecting fails, hangs, or leads to somebody who never answers."""
    with black_hole() as hole, socket.create_server(("127.0.0.1", 0)) as mute:
        counter = counting(
            {
                "refused": f"redis://127.0.0.1:{free_port()}",
                "unresolvable": "redis://redis.invalid",
                "black-holed": f"redis://127.0.0.1:{hole}",
                "mute": f"redis://127.0.0.1:{mute.getsockname()[1]}",
            }[failure]
        )
        reason(counter)
        assert waits in ([], [PATIENCE])
        assert PATIENCE <= 0.5
        waits.clear()
        for _ in range(100):
            reason(counter)
        assert waits == []


def fill(client: redis.Redis) -> None:
    """Leave Redis no memory."""
    client.config_set("maxmemory", 1)


def lock(client: redis.Redis) -> None:
    """Change the password."""
    client.config_set("requirepass", "new")
    client.client_kill_filter(_type="normal", skipme=True)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("break_it", "fix_it", "says"),
    [
        (
            lambda redis: redis.replicaof("127.0.0.1", 1),
            lambda redis: redis.replicaof("no", "one"),
            "read only replica",
        ),
        (fill, lambda redis: redis.config_set("maxmemory", 0), "maxmemory"),
        (lock, lambda redis: redis.config_set("requirepass", ""), "Authentication"),
        (lambda redis: redis.set(KEY, "x"), lambda redis: redis.delete(KEY), "not an integer"),
    ],
    ids=["read-only", "full", "wrong password", "wrong type"],
)
def test_a_redis_that_answers_but_does_not_count_is_an_outage(
    redis_server: RedisServer,
    break_it: Callable[[redis.Redis], Any],
    fix_it: Callable[[redis.Redis], Any],
    says: str,
) -> None:
    """The reason is what Redis says, and counting continues once it is fixed."""
    counter = counting(redis_server.url)
    assert counter.add() == 1

    break_it(redis_server.client)
    wait_until(lambda: says in reason(counter), what="the reason")
    fix_it(redis_server.client)

    assert count_again(counter) in (1, 2)  # 1 where the key had to be deleted


@pytest.mark.usefixtures("patient")
def test_a_restart_of_redis_loses_no_visit_that_was_shown(redis_server: RedisServer) -> None:
    """Redis keeps its numbers, and the counter finds it again by itself."""
    counter = counting(redis_server.url)
    assert counter.add() == 1
    redis_server.stop()
    assert "refused" in reason(counter).lower() or "closed" in reason(counter).lower()
    redis_server.start()

    assert count_again(counter) == 2


@pytest.mark.usefixtures("patient")
def test_a_restart_that_nobody_noticed_costs_no_visit(redis_server: RedisServer) -> None:
    """A connection that Redis closed in the meantime is replaced before a visit is sent over it."""
    counter = counting(redis_server.url)
    assert counter.add() == 1
    redis_server.stop()
    redis_server.start()

    assert counter.add() == 2


@pytest.mark.parametrize("end", [Line.drop, Line.reset], ids=["without a word", "with a reset"])
def test_a_connection_that_was_dropped_while_idle_costs_no_visit(
    redis_server: RedisServer,
    line: Line,
    end: Callable[[Line], None],
    patient: Callable[[float], None],
    monkeypatch: pytest.MonkeyPatch,
    log: list[logging.LogRecord],
) -> None:
    """A NAT or a firewall forgot it: the visit is sent over another one, once, and the log stays empty."""
    patient(1)
    monkeypatch.setattr("friendlyhello.counter.IDLE", 0)
    counter = counting(line.url)
    for number in range(1, 4):
        assert counter.add() == number
        end(line)

    assert redis_server.client.get(KEY) == b"3"
    assert log == []


@pytest.mark.usefixtures("patient")
def test_a_connection_in_use_is_not_asked_first(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A visit is one command where the one before has just been counted."""
    monkeypatch.setattr("friendlyhello.counter.IDLE", 3600)
    counter = counting(redis_server.url)
    assert [counter.add() for _ in range(10)] == list(range(1, 11))

    assert redis_server.client.info("commandstats")["cmdstat_incrby"]["calls"] == 11


@pytest.mark.usefixtures("patient")
def test_a_connection_is_kept_alive(redis_server: RedisServer) -> None:
    """The kernel asks after the other end within a minute of silence, so that few NATs forget it."""
    counter = counting(redis_server.url)
    counter.add()
    connection = counter._connection._sock

    assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 60


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[RedisServer]:
    """A real Redis that speaks TLS 1.3."""
    server = tls_redis(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.mark.usefixtures("patient")
def test_every_new_connection_of_tls_counts(tls: RedisServer, log: list[logging.LogRecord]) -> None:
    """The session tickets that TLS 1.3 sends after the handshake are neither an answer nor a fault."""
    visits = 50
    assert [counting(tls.url).add() for _ in range(visits)] == list(range(1, visits + 1))

    counter = counting(tls.url)
    counter.add()
    before = tls.client.info("stats")["total_connections_received"]
    counter.add()
    assert tls.client.info("stats")["total_connections_received"] == before, "one connection is enough"
    assert log == []


@pytest.mark.usefixtures("patient")
def test_a_restart_that_nobody_noticed_costs_no_visit_over_tls(tls: RedisServer) -> None:
    """That a connection was closed shows there as well, whatever else waits to be read."""
    counter = counting(tls.url)
    assert [counter.add(), counter.add()] == [1, 2]
    tls.stop()
    tls.start()

    assert counter.add() == 3


@pytest.mark.usefixtures("patient")
def test_tls_with_a_certificate_that_is_not_trusted_is_an_outage(tls: RedisServer) -> None:
    """Nothing is counted at a server that could be anybody's, unless the address says so."""
    bare = tls.url.partition("?")[0]

    assert "certificate verify failed" in first_reason(counting(bare))
    assert count_again(counting(f"{bare}?ssl_cert_reqs=none&ssl_check_hostname=false")) == 1


def first_reason(counter: Counter) -> str:
    """Return why Redis is left alone, once that is known."""

    def attempt() -> str:
        try:
            counter.add()
        except CounterError as error:
            return str(error).removeprefix("no answer within 0.4 s")
        return ""

    return str(wait_until(attempt, what="the reason"))


FLOODS = {
    "a number without an end": (b":", b"1" * 65536),
    "an error without an end": (b"-ERR ", b"e" * 65536),
    "a text without an end": (b"+", b"x" * 65536),
    "many numbers": (b"", b":1\r\n" * 10000),
    "a value of 512 MB": (b"$536870912\r\n", b"x" * 65536),
    "a value of 512 MB that does not come": (b"$536870912\r\n", b""),
    "a long list": (b"*2147483647\r\n", b":1\r\n" * 10000),
    "a deep list": (b"", b"*1\r\n" * 10000),
    "rubbish": (b"", bytes(range(256)) * 256),
    "another protocol": (b"HTTP/1.1 400 Bad Request\r\n\r\n", b""),
    "not a number": (b"+OK\r\n", b""),
    "no number": (b":\r\n", b""),
}


@pytest.mark.parametrize(("start", "more"), FLOODS.values(), ids=FLOODS)
def test_a_redis_that_floods_is_an_outage_and_is_not_read_to_its_end(
    start: bytes, more: bytes, log: list[logging.LogRecord]
) -> None:
    """What does not answer the question is not kept: the connection is closed, and the page goes without a count."""
    flood = Flood(start, more)
    counter = counting(flood.url)
    first_reason(counter)
    wait_until(lambda: flood.sent, what="the end of the connection")
    flood.close()

    assert max(flood.sent) < 32 * 2**20, "more than what the kernel holds of a connection was read"
    wait_until(lambda: log, what="the line of the log")
    assert [len(record.getMessage()) < 700 for record in log] == [True]


def test_probes_begin_at_once_and_become_rare(
    line: Line, monkeypatch: pytest.MonkeyPatch, patient: Callable[[float], None]
) -> None:
    """A Redis that only hesitated counts again soon; one that is away is asked less and less often, but every 2 s."""
    pauses: list[float] = []
    sleep, others = time.sleep, threading.enumerate()

    def noted(seconds: float) -> None:
        if threading.current_thread() not in others:
            pauses.append(seconds)
        else:
            sleep(seconds)

    def outage(expected: list[float]) -> None:
        pauses.clear()
        line.answers.clear()
        patient(TIMEOUT)
        reason(counter)
        wait_until(lambda: len(pauses) >= len(expected), what="probes")
        assert pauses[: len(expected)] == expected
        patient(LIMIT)
        line.answers.set()
        count_again(counter)

    monkeypatch.setattr(time, "sleep", noted)
    counter = counting(line.url)
    assert counter.add() == 1
    outage([0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0])
    outage([0.05, 0.1])
    assert LONGEST_RETRY + 2 * TIMEOUT < 2  # seconds: a pause, then connecting and an answer


def test_one_line_is_logged_at_each_change(
    line: Line, log: list[logging.LogRecord], patient: Callable[[float], None]
) -> None:
    """Not one for each request."""
    changes: list[bool] = []
    counter = Counter(connect(line.url))
    counter.on_change = changes.append
    counter.start()
    counter.add()

    line.answers.clear()
    patient(0.25)
    for _ in range(100):
        reason(counter)
    patient(LIMIT)
    line.answers.set()
    count_again(counter)

    wait_until(lambda: len(log) >= 2, what="both lines of the log")
    assert [record.levelname for record in log] == ["WARNING", "INFO"]
    assert changes == [True, False, True]


def test_a_page_that_waited_says_so_even_if_redis_is_back(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage that ends before its reason is read still has one."""
    counter = Counter(connect(redis_server.url))
    start = counter.start

    def start_and_count() -> None:
        start()
        count_again(counter)

    monkeypatch.setattr(counter, "start", start_and_count)
    assert reason(counter) == "no answer within 0.4 s"


def test_a_counter_survives_a_fork(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A counter whose thread is gone starts another one by itself."""
    counter = Counter(connect(redis_server.url))  # as in a child process, no thread runs

    assert reason(counter) == "no answer within 0.4 s"
    monkeypatch.setattr("friendlyhello.counter.PATIENCE", LIMIT)
    assert count_again(counter) == 1
