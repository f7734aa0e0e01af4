"""Run the service: `python -m notes`."""

from __future__ import annotations

import uvicorn

if __name__ == "__main__":
    uvicorn.run("notes.app:app", host="0.0.0.0", port=8000, server_header=False)  # noqa: S104  a container's port
