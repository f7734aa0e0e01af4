"""Notes: an API that keeps short texts in SQLite."""
