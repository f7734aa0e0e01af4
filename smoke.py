"""What a visitor of this service is promised. It is yours: change it with the page.

scripts/smoke_test.py calls `alone` while nothing is beside the service, then `complete` with the backing services of
service.toml beside it; scripts/pipeline.py calls one of them on what was published. Leave out the one that does not
hold. A promise is an `assert`.

  service.get(path)            the answer: .status, .headers (names in lower case), .text and .json()
  service.post(path, body)     the same; headers={...} goes with both
  service.until(path, good)    ask until good(answer) is true; all answers, the good one last
  service.environment          what the container was started with
  service.hostname             the container's host name
"""

from __future__ import annotations

import html
import re
from typing import Any

ENVIRONMENT = {"NAME": """<b>"World" & 'friends'</b>"""}  # what must not reach the page as it is
NO_REDIS = "<i>cannot connect to Redis, counter disabled</i>"


def alone(service: Any) -> None:
    """Without Redis the page is there at once, and says that it does not count."""
    check_page(service, service.get("/"), NO_REDIS)
    check_ready(service.get("/readyz"), 503)


def complete(service: Any) -> None:
    """With Redis each visit counts, one at a time."""
    last = None
    for _ in range(3):
        # Each worker finds Redis by itself, so pages without a count may come in between; such a visit may count.
        pages = service.until("/", lambda page: visits_in(page) is not None)
        visits = visits_in(pages[-1])
        assert visits is not None
        assert last is None or visits > last, f"the page counted {visits} after {last}"
        assert last is None or len(pages) > 1 or visits == last + 1, f"the page counted {visits} after {last}"
        check_page(service, pages[-1], str(visits))
        last = visits
    check_ready(service.until("/readyz", lambda answer: answer.status == 200)[-1], 200)


def check_page(service: Any, answer: Any, visits: str) -> None:
    """This is the page, exactly, with NAME escaped."""
    assert answer.status == 200, f"GET / answered {answer.status}, expected 200"
    name = html.escape(service.environment.get("NAME", "World"))
    expected = f"<h3>Hello {name}!</h3><b>Hostname:</b> {service.hostname}<br/><b>Visits:</b> {visits}"
    # &#34; and &quot; are the same character.
    found = answer.text.replace("&#34;", "&quot;").replace("&#39;", "&#x27;")
    assert found == expected, f"the page is {answer.text!r}, expected {expected!r}"
    kind = answer.headers.get("content-type")
    assert kind == "text/html; charset=utf-8", f"the page's Content-Type is {kind!r}"


def check_ready(answer: Any, expected: int) -> None:
    """Monitoring hears whether Redis answers, as JSON."""
    assert answer.status == expected, f"/readyz answered {answer.status}, expected {expected}"
    answer.json()


def visits_in(page: Any) -> int | None:
    """Return the count on the page, or None if it does not count."""
    match = re.search(r"<b>Visits:</b> (\d+)$", page.text)
    return int(match[1]) if match else None
