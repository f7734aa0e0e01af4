"""The pages of the gallery."""

from __future__ import annotations

import pytest

from gallery import create_app


def test_who_logs_in_is_greeted(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nobody else."""
    monkeypatch.setenv("SECRET_KEY", "only-for-tests")
    client = create_app().test_client()
    assert "Hello stranger" in client.get("/").text
    client.post("/login", data={"name": "Ada"})
    assert "Hello Ada" in client.get("/").text
