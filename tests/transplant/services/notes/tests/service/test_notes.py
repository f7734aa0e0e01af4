"""Notes are kept."""

from __future__ import annotations

from pathlib import Path

from notes.store import Store


def test_a_note_is_kept(tmp_path: Path) -> None:
    """Also for the next process."""
    Store(tmp_path / "notes.db").write("buy milk")
    assert Store(tmp_path / "notes.db").read() == ["buy milk"]
