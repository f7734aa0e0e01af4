"""Where notes are kept."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path


class Store:
    """Notes in an SQLite file, which is made when it is needed."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def connect(self) -> sqlite3.Connection:
        """Open the file."""
        connection = sqlite3.connect(self.file)
        connection.execute("CREATE TABLE IF NOT EXISTS note (text TEXT NOT NULL)")
        return connection

    def read(self) -> list[str]:
        """Return every note, the oldest first."""
        with closing(self.connect()) as connection:
            return [str(text) for (text,) in connection.execute("SELECT text FROM note ORDER BY rowid")]

    def write(self, text: str) -> None:
        """Keep a note."""
        with closing(self.connect()) as connection, connection:
            connection.execute("INSERT INTO note VALUES (?)", (text,))
