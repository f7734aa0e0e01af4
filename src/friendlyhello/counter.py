"""The visit counter: the only code that talks to Redis.

Visits that arrive while a command is under way share the next `INCRBY`, and each still gets its own number: one
connection and one round trip at a time serve a whole worker. A thread of its own (a greenlet under gevent) does all
the talking, so that whatever Redis or the name service does, a page waits `PATIENCE` at most, and only once: after
a failure pages go without a number until a probe finds Redis well again.

A command that failed is never sent again: Redis may have carried it out, and no visit is counted twice. So a
connection is looked at before a visit is sent over it, and asked first if it was idle.
"""

from __future__ import annotations

import contextlib
import logging
import re
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.connection import DefaultParser
from redis.retry import Retry

log = logging.getLogger(__name__)

KEY = "counter"
TIMEOUT = 0.25
"""Seconds for each step of the talk with Redis: connecting, and each answer."""
PATIENCE = 0.4
"""Seconds that a page waits for its number, whatever hangs."""
RETRY = 0.05
"""Seconds from a failure to the first probe: a Redis that only hesitated counts again at once."""
LONGEST_RETRY = 1.0
"""Seconds between two probes at most; each waits twice as long as the one before, until a visit is counted."""
IDLE = 1.0
"""Seconds without a visit after which a connection may have been dropped without a word, by a NAT or a firewall."""
LONGEST_ANSWER = 512
"""Bytes: far more than any number, and enough for what Redis says when it refuses."""


class CounterError(Exception):
    """Redis does not count at the moment; the text is the reason."""


class _Batch:
    """Visits that share one round trip."""

    def __init__(self) -> None:
        self.callers = 0
        self.visits = 0
        self.total: int | None = None
        self.settled = threading.Event()


class Counter:
    """Counts visits in Redis."""

    def __init__(self, client: redis.Redis) -> None:
        """Count with `client`, from `start` on."""
        self.on_change: Callable[[bool], None] = lambda up: None
        """Told whether Redis counts, at each change."""
        self.on_count: Callable[[int], None] = lambda visits: None
        """Told how many visits Redis has counted."""
        self._connection: Any = client.connection_pool.make_connection()
        self._used = 0.0
        self._lock = threading.Lock()
        self._work = threading.Event()
        self._next = _Batch()
        self._thread: threading.Thread | None = None
        self._proven = False
        self._outage: str | None = None

    def start(self) -> None:
        """Connect to Redis in the background, so that the first visit need not wait for it."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():  # a fork takes no threads along
                self._thread = threading.Thread(target=self._talk, name="counter", daemon=True)
                self._thread.start()
        self._work.set()

    def add(self, visits: int = 1) -> int:
        """Count `visits` and return the number of the last of them; 0 asks for the current number.

        Raises CounterError at once during an outage, or after PATIENCE seconds when one begins.
        """
        if self._outage is not None:
            raise CounterError(self._outage)
        with self._lock:
            batch = self._next
            batch.callers += 1
            batch.visits += visits
            place = batch.visits
            self._work.set()
        reason = "the connection failed"  # said if the outage is over by the time that it is to be named
        if not batch.settled.wait(PATIENCE):
            reason = f"no answer within {PATIENCE:g} s"
            self._fail(reason)
            self.start()
        if batch.total is None:
            raise CounterError(self._outage or reason)
        return batch.total - batch.visits + place

    def _talk(self) -> None:
        pause = RETRY
        while True:
            self._work.wait()
            batch = None
            try:
                self._prepare()
                batch = self._take()
                if batch.callers:
                    batch.total = self._increment(batch.visits)
                    batch.settled.set()
                    self.on_count(batch.visits)
                    pause = RETRY
            except Exception as error:  # this thread must survive any error
                self._connection.disconnect()
                self._fail(str(error) or type(error).__name__)
                if batch is not None:
                    batch.settled.set()
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_RETRY)

    def _take(self) -> _Batch:
        """Return the visits that have come in, and start collecting the next ones."""
        with self._lock:
            batch, self._next = self._next, _Batch()
            self._work.clear()
        return batch

    def _prepare(self) -> None:
        """Have a connection that a visit can be sent over, and make sure that Redis would count.

        Adding nothing needs all that counting needs, and may be repeated.
        """
        if self._proven:
            with contextlib.suppress(redis.RedisError):
                if not self._connection.can_read():
                    if time.monotonic() - self._used > IDLE:
                        self._increment(0)
                    return
            self._connection.disconnect()
        self._increment(0)
        if not self._proven:
            self.on_change(True)
        if self._outage is not None:
            log.info("Redis answers again: counting")
        self._proven, self._outage = True, None

    def _increment(self, visits: int) -> int:
        self._connection.send_command("INCRBY", KEY, visits)
        total = int(self._connection.read_response())
        self._used = time.monotonic()
        return total

    def _fail(self, reason: str) -> None:
        """Start an outage, or continue one: send the waiting away and have Redis probed."""
        with self._lock:
            began = self._outage is None
            self._outage = reason
            self._proven = False
        self._take().settled.set()
        self._work.set()
        if began:
            self.on_change(False)
            log.warning("Redis is unavailable; serving pages without a count: %s", reason)


class Answers:
    """Reads Redis' answers for redis-py: one line each, within TIMEOUT seconds and LONGEST_ANSWER bytes.

    redis-py's own parsers read as long and as much as a Redis sends.
    """

    def __init__(self, socket_read_size: int) -> None:
        self._socket: Any = None

    def on_connect(self, connection: Any) -> None:
        """Read from a connection that has just been opened."""
        self._socket = connection._sock

    def on_disconnect(self) -> None:
        """Let go of the connection."""
        self._socket = None

    def can_read(self, timeout: float = 0) -> bool:
        """Say whether Redis hung up, or sent what was not asked for: such a connection cannot be used any more."""
        self._socket.settimeout(0)
        try:
            self._socket.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):  # TLS 1.3 sends session tickets unasked; they end here
            return False
        finally:
            self._socket.settimeout(TIMEOUT)
        return True

    def read_response(self, disable_decoding: bool = False, timeout: Any = None) -> Any:
        """Return a number, a text, or Redis' refusal as an exception.

        Raises redis.InvalidResponse for any other answer, and redis.TimeoutError for one that does not end.
        """
        end = time.monotonic() + TIMEOUT
        answer = b""
        while not answer.endswith(b"\r\n"):
            self._socket.settimeout(max(end - time.monotonic(), 0.001))
            received = self._socket.recv(LONGEST_ANSWER)
            if not received:
                raise redis.ConnectionError("Connection closed by Redis")
            answer += received
            if answer[:1] not in (b":", b"+", b"-") or len(answer) > LONGEST_ANSWER or b"\n" in answer[:-1]:
                raise redis.InvalidResponse("Redis sent something other than one short answer")
        kind, text = answer[:1], re.sub(rb"[^ -~]", b"?", answer[1:-2]).decode()
        if kind == b":":
            return int(text)
        if kind == b"+":
            return text
        refusal = DefaultParser.parse_error(text)  # type: ignore[no-untyped-call]
        if isinstance(refusal, redis.ResponseError):
            return refusal
        raise refusal


def connect(url: str) -> redis.Redis:
    """Return a client for `url` that tries once and waits TIMEOUT at most. Does not connect yet."""
    return redis.Redis.from_url(
        url,
        socket_connect_timeout=TIMEOUT,
        socket_timeout=TIMEOUT,
        retry=Retry(NoBackoff(), 0),
        parser_class=Answers,
        protocol=2,  # understood by every Redis, and one round trip less for each connection
        driver_info=None,
    )
