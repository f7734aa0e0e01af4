#!/usr/bin/env python3
"""Offer a release in an issue on GitHub: one, which is written again when there is something new to say.

  python3 scripts/offer_release.py

OFFER is what check_release.py handed on. An open issue that an earlier run wrote is found by the comment in its text;
if it says the same, it stays as it is. Needs the `gh` command, and a token with the right `issues: write`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves it out

from check_release import ledger, open_issues
from lib.command import Failure, UsageError, parser, say, start
from lib.github import repository
from lib.names import PIPELINE, checked_out

MARK = f"<!-- {PIPELINE}: "


def parsed(offer: str) -> dict[str, str]:
    """Return the title and the text of an offer."""
    try:
        found = json.loads(offer)
        texts = {"title": found["title"], "body": found["body"]}
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"OFFER is {offer!r}, expected what check_release.py hands on") from error
    if not all(isinstance(text, str) for text in texts.values()) or not texts["body"].startswith(MARK):
        raise UsageError(f"OFFER is {offer!r}, expected what check_release.py hands on")
    return texts


def main(argv: Sequence[str]) -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--dry-run", action="store_true", help="only say which issue would be written")
    options = arguments.parse_args(argv)
    texts = parsed(os.environ.get("OFFER", ""))
    url = checked_out().url
    found = repository(os.environ, url)
    if found is None:
        raise Failure("this repository is not on GitHub, which keeps the issue")
    earlier = [issue for issue in open_issues(os.environ, url) if issue["body"].startswith(MARK)]
    if earlier and (earlier[0]["title"], earlier[0]["body"]) == (texts["title"], texts["body"]):
        say(f"issue #{earlier[0]['number']} says so already")
        return 0
    method, path = ("PATCH", f"issues/{earlier[0]['number']}") if earlier else ("POST", "issues")
    if options.dry_run:
        say(f"would send {method} {path}: {texts['title']}")
        return 0
    written = ledger(found).send(method, path, texts)
    print((written or {}).get("html_url", f"{found.url}/{path}"))
    return 0


if __name__ == "__main__":
    start(main)
