"""What the environment says: a value, or the file that has it."""

from __future__ import annotations

import os
from pathlib import Path


def setting(name: str, default: str = "") -> str:
    """Return NAME, or what is in the file that NAME_FILE names."""
    file = os.environ.get(f"{name}_FILE")
    return Path(file).read_text("utf-8").strip() if file else os.environ.get(name, default)
