#!/usr/bin/env python3
"""What the proof costs: seconds, and requests to the registry, of a push to main, a release and a redeploy.

Runs the workflows with act, on this machine, for an image of one platform: as they are, and in a copy whose policy
(scripts/lib/release.py) believes labels, and so looks at the image alone. The registry is real, and a front counts
what it is asked. A release and a redeploy are run again, in turn, for their seconds; the redeploy is only shown, and
what a node asks for to pull the image is added from its manifest. GitHub's part is a stand-in: what it takes to sign,
and to answer, is not in the seconds. Prints a table in Markdown; exits with 1 if the proof takes more than 5 s a run
or, of all three, more than 20 % of the requests.

Needs what the tests of the workflows need: python3 scripts/check.py --setup.
"""

from __future__ import annotations

import contextlib
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
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


def timed(scenario: Scenario, workflow: str, event: str, ref: str, inputs: dict[str, str] | None = None) -> Cost:
    """Run a workflow and return its cost; raise Failure if it does not succeed."""
    scenario.front.requests.clear()
    begin = time.monotonic()
    with contextlib.redirect_stdout(io.StringIO()):  # each run's log
        done = scenario.run(workflow, event, ref=ref, inputs=inputs)
    seconds = time.monotonic() - begin
    if done.exit:
        raise Failure(f"{workflow} failed: {'; '.join(done.errors) or done.output[-500:]}")
    asked = list(scenario.front.requests)
    counted = sum(request.startswith("GET ") and "/manifests/" in request for request in asked)
    return Cost(seconds, len(asked), counted)


def published(scenario: Scenario, *, proof: bool) -> list[Cost]:
    """Publish and release a new repository's image, and return what each of these costs."""
    text = (scenario.clone / POLICY).read_text("utf-8")
    scenario.commit({POLICY: text + ("" if proof else BELIEVES)})
    push = timed(scenario, "ci.yml", "push", "refs/heads/main")
    return [push, timed(scenario, "release.yml", "push", scenario.tag("v1.0.0"))]


def again(scenario: Scenario) -> tuple[float, Cost]:
    """Release once more and show a redeploy; return the seconds of the one, and what the other costs with a pull."""
    released = timed(scenario, "release.yml", "push", "refs/tags/v1.0.0")
    inputs = {"environment": "production", "version": "1.0.0", "dry-run": "true"}
    shown = timed(scenario, "redeploy.yml", "workflow_dispatch", "refs/heads/main", inputs)
    # A pull: HEAD and GET of the index, a platform's manifest, its configuration, its layers.
    layers = max(len(sizes) for sizes in layer_sizes(f"{scenario.image}:1.0.0").values())
    return released.seconds, Cost(shown.seconds, shown.requests + 4 + layers, shown.counted + 2)


def report(costs: Mapping[bool, Sequence[Cost]], seconds: Mapping[bool, Sequence[float]]) -> tuple[str, bool]:
    """Return the table, and whether the proof costs no more than it may.

    `costs` are those of RUNS with proof (True) and without; `seconds` are the medians of a release and a redeploy.
    """
    rows = []
    for number, name in enumerate(RUNS):
        before, after = costs[False][number], costs[True][number]
        times = [f"{seconds[proof][number - 1]:.1f}" if number else "" for proof in (False, True)]
        share = f"{after.requests / before.requests - 1:+.0%}"
        counted = f"{before.counted} and {after.counted}"
        rows.append([name, *times, str(before.requests), str(after.requests), share, counted])
    sums = {proof: sum(cost.requests for cost in found) for proof, found in costs.items()}
    more = sums[True] / sums[False] - 1
    rows.append(["all", "", "", str(sums[False]), str(sums[True]), f"{more:+.0%}", ""])
    head = ["", "s without", "s with proof", "requests without", "with proof", "more", "counted by Docker Hub"]
    slowest = max(after - before for before, after in zip(seconds[False], seconds[True], strict=True))
    return table(head, rows), slowest <= SECONDS and more <= SHARE


def main(argv: Sequence[str]) -> int:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.add_argument("--runs", type=int, default=3, help="for the seconds (default: %(default)s)")
    options = arguments.parse_args(argv)
    name = f"onedigest-benchmark-{os.getpid()}"
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        here = Path(folder)
        for part in ("project", "registry", "False", "True"):
            (here / part).mkdir()
        make_project(here / "project", name, free_port())
        stack.callback(run, ["docker", "image", "rm", "--force", f"{name}:ci"], check=False)
        (here / "registry/passwords").write_text(PASSWORDS, "utf-8")
        port = free_port()
        stack.callback(start_registry(here / "registry", port).stop)
        scenarios, costs = {}, {}
        for proof in (False, True):
            say(f"{'with' if proof else 'without'} proof: a push to main and a release")
            opening = opened(here / str(proof), here / "project", port, {}, f"proof{proof}".lower())
            scenarios[proof] = stack.enter_context(opening)
            costs[proof] = published(scenarios[proof], proof=proof)
        found: dict[bool, list[tuple[float, Cost]]] = {False: [], True: []}
        for number in range(max(1, options.runs)):
            for proof, scenario in scenarios.items():
                say(f"{'with' if proof else 'without'} proof: a release and a redeploy, run {number + 1}")
                found[proof].append(again(scenario))
    for proof, measured in found.items():
        costs[proof].append(measured[0][1])
    seconds = {
        proof: [
            statistics.median(released for released, _ in measured),
            statistics.median(shown.seconds for _, shown in measured),
        ]
        for proof, measured in found.items()
    }
    text, good = report(costs, seconds)
    print(f"Measured on {machine()}; medians of {len(found[True])}, for an image of one platform.\n\n{text}")
    return 0 if good else 1


if __name__ == "__main__":
    start(main)
