#!/usr/bin/env python3
"""Say how this job may log in to the registry, before it tries.

  python3 scripts/check_login.py

With the secret DOCKERHUB_TOKEN (HAS_TOKEN is `true` if it is set). Or, for an organisation on Docker Hub, without a
stored token: DOCKERHUB_OIDC_CONNECTIONID names an OIDC connection there, and GitHub says who the job is. Prints that
subject exactly as GitHub gives it, because the connection's ruleset has to allow it; its form depends on the
repository's age and on the job's environment:
https://docs.github.com/actions/reference/security/oidc#example-subject-claims
"""

from __future__ import annotations

import base64
import json
import os
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves it out

from lib.command import Failure, UsageError, add_summary, parser, say, start

SECONDS = 30


def subject_of(token: str) -> str:
    """Return the subject of an ID token (RFC 7519, 4.1.2), which is not verified: it is only shown."""
    try:
        body = token.split(".")[1]
        return str(json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))["sub"])
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise Failure("GitHub's answer is not an ID token with a subject; run the job again") from error


def ask_for_subject(env: Mapping[str, str]) -> str:
    """Return the subject that GitHub gives this job.

    https://docs.github.com/actions/reference/security/oidc#methods-for-requesting-the-oidc-token
    """
    address, secret = env.get("ACTIONS_ID_TOKEN_REQUEST_URL", ""), env.get("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "")
    if not address or not secret:
        raise Failure("GitHub offers this job no ID token: it needs the right `id-token: write`")
    request = urllib.request.Request(address, headers={"Authorization": f"bearer {secret}"})  # noqa: S310  GitHub's own
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as response:  # noqa: S310
            token = json.load(response)["value"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Failure(f"cannot get an ID token from GitHub: {error}; run the job again") from error
    return subject_of(str(token))


def main(argv: Sequence[str]) -> int:
    parser(__doc__).parse_args(argv)
    env = os.environ
    if env.get("HAS_TOKEN") == "true":
        say("login: with the secret DOCKERHUB_TOKEN")
        return 0
    if not env.get("DOCKERHUB_OIDC_CONNECTIONID"):
        raise UsageError(
            f"the variable DOCKERHUB_USERNAME is {env.get('DOCKERHUB_USERNAME', '')!r} and the secret DOCKERHUB_TOKEN"
            " is not set: set it, for the environment `publish` or for the repository, to an access token that may"
            " read and write"
        )
    if env.get("REGISTRY"):
        raise UsageError(
            f"DOCKERHUB_OIDC_CONNECTIONID is for Docker Hub, and REGISTRY is {env['REGISTRY']!r}: set the secret"
            " DOCKERHUB_TOKEN, or unset REGISTRY"
        )
    subject = ask_for_subject(env)
    say(f"login: without a stored token, as {subject}")
    add_summary(f"Docker Hub's OIDC connection has to allow the subject `{subject}`.")
    print(subject)
    return 0


if __name__ == "__main__":
    start(main)
