"""The visit counter: the only code that talks to Redis.

Visits that arrive while a command is under way share the next `INCRBY`, and each still gets its own number: one
connection and one round trip at a time serve a whole worker. A thread of its own (a greenlet under gevent) does all
the talking, so that whatever Redis or the name service does, a page waits `PATIENCE` at most, and only once: after
a failure pages go without a number until a probe finds Redis well again.

A command that failed is never sent again: Redis may have carried it out, and no visit is counted twice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import redis
from redis.backoff import NoBackoff
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
        self._client = client
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
        if not batch.settled.wait(PATIENCE):
            self._fail(f"no answer within {PATIENCE:g} s")
            self.start()
        if batch.total is None:
            raise CounterError(self._outage or "the connection failed")
        return batch.total - batch.visits + place

    def _talk(self) -> None:
        pause = RETRY
        while True:
            self._work.wait()
            batch = None
            try:
                if not self._proven:
                    self._prove()
                batch = self._take()
                if batch.callers:
                    batch.total = self._increment(batch.visits)
                    batch.settled.set()
                    self.on_count(batch.visits)
                    pause = RETRY
            except Exception as error:  # whatever it is, this thread has to live
                self._client.connection_pool.disconnect()
                self._fail(str(error) or type(error).__name__)
                if batch is not None:
                    batch.settled.set()
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_RETRY)

    def _take(self) -> _Batch:
        """Return the visits that have come in, and let the next ones gather anew."""
        with self._lock:
            batch, self._next = self._next, _Batch()
            self._work.clear()
        return batch

    def _prove(self) -> None:
        """Connect and make sure that Redis would count: adding nothing needs all that counting needs."""
        self._increment(0)
        self.on_change(True)
        if self._outage is not None:
            log.info("Redis answers again: counting")
        self._proven, self._outage = True, None

    def _increment(self, visits: int) -> int:
        return int(self._client.incrby(KEY, visits))

    def _fail(self, reason: str) -> None:
        """Start an outage, or go on with one: send the waiting away and have Redis probed."""
        with self._lock:
            began = self._outage is None
            self._outage = reason
            self._proven = False
        self._take().settled.set()
        self._work.set()
        if began:
            self.on_change(False)
            log.warning("Redis is out of order, pages go without a count: %s", reason)


def connect(url: str) -> redis.Redis:
    """Return a client for `url` that tries once and waits TIMEOUT at most. Does not connect yet."""
    return redis.Redis.from_url(
        url,
        socket_connect_timeout=TIMEOUT,
        socket_timeout=TIMEOUT,
        retry=Retry(NoBackoff(), 0),
        protocol=2,  # understood by every Redis, and one round trip less for each connection
        driver_info=None,
    )
