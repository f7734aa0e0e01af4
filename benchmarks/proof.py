#!/usr/bin/env python3
"""What the proof costs: seconds, and requests to the registry, of a push to main, a release and a redeploy.

Runs the workflows with act, on this machine, for an image of one platform: as they are, and in a copy whose policy
(scripts/lib/release.py) believes labels, and so looks at the image alone. The registry is real, and a front counts
what it is asked. The redeploy is only shown; what a node asks for to pull the image is added from its manifest.
GitHub's part is a stand-in: what it takes to sign, and to answer, is not in the seconds. Prints a table in Markdown;
exits with 1 if the proof takes more than 5 s a run or, of all three, more than 20 % of the requests.

Needs what the tests of the workflows need: python3 scripts/check.py --setup.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]

from lib.command import Failure, parser, run, say, start  # noqa: E402
from lib.registry import layer_sizes  # noqa: E402
from measuring import machine, table  # noqa: E402
from support.ports import free_port  # noqa: E402
from workflows.act import PASSWORDS, Scenario, make_project, opened, start_registry  # noqa: E402

POLICY = "scripts/lib/release.py"
SHAPE = ("image index", "platforms", "official base", "revision")
BELIEVES = f"\nPOLICY = tuple(each for each in POLICY if each[0] in {SHAPE})\n"
RUNS = ("push to main", "release", "redeploy")
SECONDS, SHARE = 5.0, 0.20


@dataclass(frozen=True)
class Cost:
    """What a run took: seconds, requests to the registry, and those of them that Docker Hub would count."""

    seconds: float
    requests: int
    counted: int


def timed(scenario: Scenario, workflow: str, event: str, ref: str, inputs: dict[str, str] | None) -> Cost:
    """Run a workflow and return its cost; raise Failure if it does not succeed."""
    scenario.front.requests.clear()
    begin = time.monotonic()
    done = scenario.run(workflow, event, ref=ref, inputs=inputs)
    seconds = time.monotonic() - begin
    if done.exit:
        raise Failure(f"{workflow} failed: {'; '.join(done.errors) or done.output[-500:]}")
    asked = list(scenario.front.requests)
    counted = sum(request.startswith("GET ") and "/manifests/" in request for request in asked)
    return Cost(seconds, len(asked), counted)


def costs(scenario: Scenario, *, proof: bool) -> list[Cost]:
    """Return what each of RUNS costs, in a new repository."""
    text = (scenario.clone / POLICY).read_text("utf-8")
    scenario.commit({POLICY: text + ("" if proof else BELIEVES)})
    push = timed(scenario, "ci.yml", "push", "refs/heads/main", None)
    released = timed(scenario, "release.yml", "push", scenario.tag("v1.0.0"), None)
    inputs = {"environment": "production", "version": "1.0.0", "dry-run": "true"}
    shown = timed(scenario, "redeploy.yml", "workflow_dispatch", "refs/heads/main", inputs)
    # A pull: HEAD and GET of the index, a platform's manifest, its configuration, its layers.
    layers = max(len(sizes) for sizes in layer_sizes(f"{scenario.image}:1.0.0").values())
    return [push, released, Cost(shown.seconds, shown.requests + 4 + layers, shown.counted + 2)]


def report(without: Sequence[Sequence[Cost]], with_proof: Sequence[Sequence[Cost]]) -> tuple[str, bool]:
    """Return the table, and whether the proof costs no more than it may; each has RUNS, several times."""
    rows, sums, slowest = [], [0, 0], 0.0
    for number, name in enumerate(RUNS):
        before, after = ([each[number] for each in measured] for measured in (without, with_proof))
        seconds = [statistics.median(cost.seconds for cost in costs) for costs in (before, after)]
        requests = [round(statistics.median(cost.requests for cost in costs)) for costs in (before, after)]
        counted = [round(statistics.median(cost.counted for cost in costs)) for costs in (before, after)]
        slowest = max(slowest, seconds[1] - seconds[0])
        sums = [total + more for total, more in zip(sums, requests, strict=True)]
        rows.append(
            [
                *(name, f"{seconds[0]:.1f}", f"{seconds[1]:.1f}", str(requests[0]), str(requests[1])),
                *(f"{requests[1] / requests[0] - 1:+.0%}", f"{counted[0]} and {counted[1]}"),
            ]
        )
    more = sums[1] / sums[0] - 1
    rows.append(["all", "", "", str(sums[0]), str(sums[1]), f"{more:+.0%}", ""])
    head = ["", "s without", "s with proof", "requests without", "with proof", "more", "counted by Docker Hub"]
    return table(head, rows), slowest <= SECONDS and more <= SHARE


def main(argv: Sequence[str]) -> int:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.add_argument("--runs", type=int, default=1, help="of each kind (default: %(default)s)")
    options = arguments.parse_args(argv)
    name = f"onedigest-benchmark-{os.getpid()}"
    measured: dict[bool, list[list[Cost]]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        for part in ("project", "registry"):
            (here / part).mkdir()
        make_project(here / "project", name, free_port())
        (here / "registry/passwords").write_text(PASSWORDS, "utf-8")
        port = free_port()
        daemon = start_registry(here / "registry", port)
        try:
            for number in range(max(1, options.runs)):
                for proof in (False, True):
                    say(f"run {number + 1}, {'with' if proof else 'without'} proof")
                    (where := here / f"{number}{proof}").mkdir()
                    with opened(where, here / "project", port, {}, f"proof{number}{proof}".lower()) as scenario:
                        measured[proof].append(costs(scenario, proof=proof))
        finally:
            daemon.stop()
            run(["docker", "image", "rm", "--force", f"{name}:ci"], check=False)
    text, good = report(measured[False], measured[True])
    print(f"Measured on {machine()}; medians of {len(measured[True])}, for an image of one platform.\n\n{text}")
    return 0 if good else 1


if __name__ == "__main__":
    start(main)
