"""The API."""

from __future__ import annotations

import os
from pathlib import Path

from fastapi import FastAPI
from pydantic import BaseModel

from notes.store import Store

app = FastAPI(title="notes")
store = Store(Path(os.environ.get("NOTES_FILE", "/data/notes.db")))


class Note(BaseModel):
    """A short text."""

    text: str


@app.get("/health")
def health() -> dict[str, str]:
    """The process is up."""
    return {"status": "ok"}


@app.get("/notes")
def read() -> list[Note]:
    """Every note, the oldest first."""
    return [Note(text=text) for text in store.read()]


@app.post("/notes", status_code=201)
def write(note: Note) -> Note:
    """Keep a note."""
    store.write(note.text)
    return note
