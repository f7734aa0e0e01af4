"""Programs that answer from a table: what stands where a script's process ends and another's begins."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

# A program that notes how it was called and gives the first answer that fits; one with `once` is given once.
PROGRAM = """#!{python} -SE
import json, os, pathlib, re, shlex, sys
folder = pathlib.Path({folder!r})
called = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
with (folder / "calls.jsonl").open("a") as calls:
    calls.write(json.dumps(called) + "\\n")
answers = json.loads((folder / "answers.json").read_text())
for answer in answers:
    if re.search(answer["when"], shlex.join(called)):
        if answer["once"]:
            answers.remove(answer)
            (folder / "answers.json").write_text(json.dumps(answers))
        sys.stdout.write(answer["out"])
        sys.stderr.write(answer["err"])
        sys.exit(answer["status"])
"""


class Programs:
    """Programs that come first on PATH, stand for the real ones, and answer from a table."""

    def __init__(self, folder: Path, python: str = sys.executable) -> None:
        self.folder = folder
        self._python = python
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        self._answers: list[dict[str, object]] = []
        self._save()

    def _save(self) -> None:
        (self.folder / "answers.json").write_text(json.dumps(self._answers), "utf-8")

    def add(self, *names: str) -> Programs:
        """Put programs on PATH that succeed and say nothing, until told otherwise."""
        for name in names:
            path = self.bin / name
            path.write_text(PROGRAM.format(python=self._python, folder=str(self.folder)), "utf-8")
            path.chmod(0o755)
        return self

    def answer(
        self, when: str, out: str = "", err: str = "", status: int = 0, *, once: bool = False, first: bool = False
    ) -> Programs:
        """Answer a call whose command line fits the expression `when`; the first answer that fits counts."""
        self._answers.insert(
            0 if first else len(self._answers), {"when": when, "out": out, "err": err, "status": status, "once": once}
        )
        self._save()
        return self

    def call(self, command: list[str]) -> tuple[int, str, str]:
        """Answer a call in this process, as the program would; return its exit code, stdout and stderr."""
        with (self.folder / "calls.jsonl").open("a", encoding="utf-8") as calls:
            calls.write(json.dumps(command) + "\n")
        for answer in self._answers:
            if re.search(str(answer["when"]), shlex.join(command)):
                return int(str(answer["status"])), str(answer["out"]), str(answer["err"])
        return 0, "", ""

    @property
    def calls(self) -> list[list[str]]:
        """Every call so far, each as the list of its words."""
        file = self.folder / "calls.jsonl"
        return [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.exists() else []

    def called(self, *beginning: str) -> list[list[str]]:
        """The calls that begin with these words."""
        return [call for call in self.calls if call[: len(beginning)] == list(beginning)]
