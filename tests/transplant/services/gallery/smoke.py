"""What a visitor of this service is promised."""

from __future__ import annotations

from typing import Any

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def alone(service: Any) -> None:
    """The page has its style, whoever logs in is known, and pictures are made."""
    assert '<link rel="stylesheet" href="/static/style.css">' in service.get("/").text
    assert service.get("/static/style.css").text == "h1 { color: teal }\n"
    cookie = service.post("/login", "name=Ada", headers=FORM).headers["set-cookie"].partition(";")[0]
    assert "<h1>Hello Ada</h1>" in service.get("/", headers={"Cookie": cookie}).text
    forged = cookie[:-5] + ("A" if cookie[-5] != "A" else "B") + cookie[-4:]
    assert "<h1>Hello stranger</h1>" in service.get("/", headers={"Cookie": forged}).text
    picture = service.get("/picture.png")
    assert (picture.status, picture.headers["content-type"]) == (200, "image/png")
    assert service.get("/yaml").text.startswith("0.")


def complete(service: Any) -> None:
    """Orders are taken for the worker."""
    first = service.until("/orders", lambda answer: answer.status == 200)[-1].json()["waiting"]
    assert service.post("/orders", "width=64", headers=FORM).status == 202
    assert service.get("/orders").json()["waiting"] == first + 1
