"""Takes orders from Redis, one after the other: `python -m gallery.worker`."""

from __future__ import annotations

import time

import redis

from gallery.settings import setting


def main() -> None:
    """Take orders until the end."""
    queue = redis.Redis.from_url(setting("REDIS_URL", "redis://redis:6379/0"))
    while True:
        try:
            order = queue.blpop(["orders"], timeout=5)
        except redis.RedisError as error:
            print(f"no orders: {error}", flush=True)
            time.sleep(1)
            continue
        if order:
            print(f"made a picture of {order[1]!r} pixels", flush=True)


if __name__ == "__main__":
    main()
