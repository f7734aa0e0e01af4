"""What a client of this service is promised."""

from __future__ import annotations

from typing import Any


def alone(service: Any) -> None:
    """A note that was written can be read."""
    before = service.get("/notes").json()
    written = service.post("/notes", '{"text": "buy milk"}', headers={"Content-Type": "application/json"})
    assert written.status == 201, f"POST /notes answered {written.status}"
    assert service.get("/notes").json() == [*before, {"text": "buy milk"}]
    refused = service.post("/notes", "{}", headers={"Content-Type": "application/json"})
    assert refused.status == 422, f"a note without a text was answered {refused.status}"
