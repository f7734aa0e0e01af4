"""What the scripts share: running commands, names, registries. Standard library only."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036  the one place that says so in a sentence
    sys.exit(
        "error: these scripts need Python 3.11 or newer and this is {}.{}; run them with a newer python3".format(
            *sys.version_info[:2]
        )
    )
