"""A gallery: a page, a login, a picture, and orders that a worker takes."""

from __future__ import annotations

import ctypes
import io
import os

import redis
from flask import Flask, Response, redirect, render_template, request, session, url_for
from PIL import Image
from werkzeug.wrappers import Response as Answer

from gallery.settings import setting


def create_app() -> Flask:
    """Return the service as a WSGI application."""
    app = Flask("gallery")
    app.secret_key = setting("SECRET_KEY")
    queue = redis.Redis.from_url(setting("REDIS_URL", "redis://redis:6379/0"), socket_timeout=1)

    @app.after_request
    def say_less(response: Response) -> Response:
        response.headers["X-Revision"] = os.environ.get("REVISION", "unknown")
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    @app.get("/up")
    def up() -> str:
        return "ok"

    @app.get("/")
    def page() -> str:
        return render_template("page.html", name=session.get("name", "stranger"))

    @app.post("/login")
    def login() -> Answer:
        session["name"] = request.form["name"]
        return redirect(url_for("page"))

    @app.get("/picture.png")
    def picture() -> Response:
        file = io.BytesIO()
        Image.new("RGB", (8, 8), "teal").save(file, "PNG")
        return Response(file.getvalue(), mimetype="image/png")

    @app.get("/yaml")
    def yaml() -> str:
        library = ctypes.CDLL("libyaml-0.so.2")
        library.yaml_get_version_string.restype = ctypes.c_char_p
        version: bytes = library.yaml_get_version_string()
        return version.decode()

    @app.get("/orders")
    def orders() -> tuple[dict[str, int], int]:
        try:
            return {"waiting": queue.llen("orders")}, 200
        except redis.RedisError:
            return {}, 503

    @app.post("/orders")
    def order() -> tuple[str, int]:
        queue.rpush("orders", request.form["width"])
        return "taken", 202

    return app
