"""What a run on this machine cannot show, read from the workflows themselves: one rule a test."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lib.service import PLATFORMS
from support.projects import ROOT
from workflows.act import STAND_INS, TEST_RESULT

FOLDER = ROOT / ".github/workflows"
FILES = sorted(FOLDER.glob("*.yml"))
UPDATES: list[dict[str, Any]] = yaml.safe_load((ROOT / ".github/dependabot.yml").read_text("utf-8"))["updates"]
HARDENING = "https://docs.github.com/actions/reference/security/secure-use"


def load(file: Path) -> dict[str, Any]:
    """Return a workflow; YAML 1.1 reads the key `on` as true."""
    content = yaml.safe_load(file.read_text("utf-8"))
    content["on"] = content.pop(True)
    return dict(content)


WORKFLOWS = {file.name: load(file) for file in FILES}
JOBS = {(name, job): body for name, workflow in WORKFLOWS.items() for job, body in workflow["jobs"].items()}
STEPS = [(f"{name}: {job}", step) for (name, job), body in JOBS.items() for step in body.get("steps", [])]
RUNS = [(where, step["run"]) for where, step in STEPS if "run" in step]


def lines() -> Iterator[tuple[str, str]]:
    """Yield where and what for every line of the workflows."""
    for file in FILES:
        for number, line in enumerate(file.read_text("utf-8").splitlines(), start=1):
            yield f"{file.name}:{number}", line


def texts(value: object) -> Iterator[str]:
    """Yield every text in a parsed document, keys as well."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from (*texts(key), *texts(item))
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)
    else:
        yield str(value)


def test_actions_are_pinned() -> None:
    """Each action is a full commit id with its version beside it: a tag can be moved by whoever takes it over.

    HARDENING, "Using third-party actions".
    """
    pinned = re.compile(r"\s*(- )?uses: [\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
    for where, line in lines():
        if "uses:" in line and "uses: ./" not in line:
            assert pinned.fullmatch(line), where


def test_few_actions() -> None:
    """Each action is code of somebody else's with our rights: there are at most eight, and scenarios know them all."""
    used = {step["uses"].partition("@")[0] for _, step in STEPS if "uses" in step}
    assert used == set(STAND_INS)
    assert len(used) <= 8


def test_one_version_of_an_action() -> None:
    """An action has the same commit wherever it is used."""
    used = {step["uses"] for _, step in STEPS if "uses" in step}
    assert len(used) == len({use.partition("@")[0] for use in used})


def test_no_rights_by_default() -> None:
    """A workflow has no rights, and each job says which it needs. HARDENING, "permissions for the GITHUB_TOKEN"."""
    assert all(workflow["permissions"] == {} for workflow in WORKFLOWS.values())
    assert all("permissions" in body for body in JOBS.values())


def test_every_right_has_a_reason() -> None:
    """Beside each right stands what it is for."""
    for where, line in lines():
        if re.match(r"\s+[a-z-]+: (read|write)\b", line):
            assert re.search(r"# \w+", line), where


def test_who_may_write() -> None:
    """Only a release may write to the repository, only the job that publishes may sign, and one writes an issue."""
    writes = {
        (*key, right) for key, body in JOBS.items() for right, level in body["permissions"].items() if level == "write"
    }
    jobs = (("ci.yml", "publish"), ("release.yml", "image"))  # the second calls the first
    signing = {(*job, right) for job in jobs for right in ("id-token", "attestations", "checks")}
    assert writes == {*signing, ("release.yml", "release", "contents"), ("weekly.yml", "offer", "issues")}


def test_a_called_workflow_has_what_it_asks_for() -> None:
    """A caller gives at least the rights that the called jobs ask for, or the run does not start.

    https://docs.github.com/actions/reference/workflows-and-actions/reusable-workflows
    """
    for body in JOBS.values():
        if body.get("uses", "").startswith("./"):
            called = WORKFLOWS[Path(body["uses"]).name]["jobs"]
            given = set(body["permissions"].items())
            given |= {(right, "read") for right, level in given if level == "write"}
            assert {item for job in called.values() for item in job["permissions"].items()} <= given


def test_no_foreign_code_with_rights() -> None:
    """No event runs a stranger's code with secrets. HARDENING, "untrusted code checkout"."""
    events = {event for workflow in WORKFLOWS.values() for event in workflow["on"]}
    assert events == {"push", "pull_request", "schedule", "workflow_call", "workflow_dispatch"}


def test_concurrency_is_literal() -> None:
    """Each group has a prefix of its own: in a called workflow, github.workflow is the caller's, and both would wait.

    https://docs.github.com/actions/reference/workflows-and-actions/contexts#github-context
    """
    groups = [workflow["concurrency"]["group"] for workflow in WORKFLOWS.values() if "concurrency" in workflow]
    groups += [body["concurrency"]["group"] for body in JOBS.values() if "concurrency" in body]
    prefixes = [re.match(r"[a-z]+-", group) for group in groups]
    assert all(prefixes)
    assert len({prefix[0] for prefix in prefixes if prefix}) == len(groups)
    assert not any("github.workflow" in group for group in groups)


def test_one_publication_of_a_commit() -> None:
    """Main and a release of one commit publish it one after the other, and neither is cancelled.

    So the second finds what the first has published and attested, and uses it.

    Without `queue: max`, a third run would cancel the one that waits:
    https://docs.github.com/actions/how-tos/write-workflows/choose-when-workflows-run/control-workflow-concurrency
    """
    publish = JOBS["ci.yml", "publish"]["concurrency"]
    assert publish == {"group": "publish-${{ github.sha }}", "queue": "max"}


def test_only_pull_requests_are_cancelled() -> None:
    """A newer push ends the run of a pull request; a run of main, a release or a redeploy ends by itself."""
    ci = WORKFLOWS["ci.yml"]["concurrency"]
    assert ci["group"] == "ci-${{ github.event.pull_request.number || github.run_id }}"
    release = WORKFLOWS["release.yml"]["concurrency"]
    assert (release["queue"], release.get("cancel-in-progress", False)) == ("max", False)
    assert not any(body["concurrency"].get("cancel-in-progress") for body in JOBS.values() if "concurrency" in body)


def test_an_approval_that_is_missing_keeps_nobody_from_rolling_back() -> None:
    """A run that waits for an approval, for up to 30 days, holds its groups; so redeploys have none.

    The Swarm's lock keeps them apart: scripts/lib/swarm.py.
    https://docs.github.com/actions/reference/limits, "Gate approval time"
    """
    assert "concurrency" not in WORKFLOWS["redeploy.yml"]
    assert "concurrency" not in JOBS["redeploy.yml", "redeploy"]


def test_approvals_are_asked_for() -> None:
    """The job that deploys belongs to an environment, where GitHub keeps approvals and the record of deployments.

    The form submits no environment while the repository has none; that would mean no approvals. `production` is meant.
    https://docs.github.com/actions/reference/workflows-and-actions/deployments-and-environments
    https://github.com/github/docs/issues/16284
    """
    environment = "${{ inputs.environment || 'production' }}"
    assert JOBS["redeploy.yml", "redeploy"]["environment"] == environment
    assert environment in WORKFLOWS["redeploy.yml"]["run-name"]
    assert not any("inputs.environment }}" in line for _, line in lines())


def test_every_tag_is_answered() -> None:
    """A tag that is not a version starts the workflow too, so that somebody says why it is not released.

    `*` matches no slash: https://docs.github.com/actions/reference/workflows-and-actions/workflow-syntax,
    "Filter pattern cheat sheet".
    """
    assert WORKFLOWS["release.yml"]["on"] == {"push": {"tags": ["**"]}}


def test_tags_are_pushed_by_name() -> None:
    """More than three tags at once start nothing, so nobody is told to push all of them.

    https://docs.github.com/actions/reference/workflows-and-actions/events-that-trigger-workflows#push
    """
    listing = subprocess.run(["git", "-C", ROOT, "ls-files"], check=True, capture_output=True, encoding="utf-8").stdout
    files = [ROOT / name for name in listing.split() if name.endswith((".md", ".yml", ".yaml", ".toml"))]
    texts = [file.read_text("utf-8") for file in [*files, *(ROOT / "scripts").rglob("*.py")] if file.is_file()]
    assert any("git push origin v1.2.3" in text for text in texts)
    assert not any("push --tags" in text for text in texts)


def test_every_job_ends() -> None:
    """A job that hangs is ended in minutes; GitHub's own limit is six hours."""
    for key, body in JOBS.items():
        if "uses" not in body:
            assert 0 < body["timeout-minutes"] <= 30, key


def test_runner_is_named() -> None:
    """The runner's version is written down: ubuntu-latest changes under a workflow that did not."""
    runners = {key: body["runs-on"] for key, body in JOBS.items() if "uses" not in body}
    assert runners.pop(("ci.yml", "arm64")) == "ubuntu-24.04-arm"
    assert set(runners.values()) == {"ubuntu-24.04"}


def test_checkout_keeps_no_token() -> None:
    """No checkout leaves the job's token on the disk, for later steps to read."""
    checkouts = [step["with"] for _, step in STEPS if step.get("uses", "").startswith("actions/checkout@")]
    assert checkouts
    assert all(options["persist-credentials"] is False for options in checkouts)


@pytest.mark.parametrize(("where", "command"), RUNS, ids=[f"{where}: {run}" for where, run in RUNS])
def test_a_step_is_one_command(where: str, command: str) -> None:
    """A step is one command that can be run on a laptop; no expression gets into a shell. HARDENING, "injection"."""
    assert "${{" not in command, where
    assert not re.search(r"[\n;|<>`]|&&|\$\(", command), where
    script = re.match(r"python3 (scripts/\w+\.py)( |$)", command)
    assert (script and (ROOT / script[1]).is_file()) or command.startswith("test "), where


def test_secrets_go_where_they_must() -> None:
    """A secret reaches the login, a called workflow and the step that deploys; others see whether it is set."""
    allowed = re.compile(
        r"\s+(password: \$\{\{ secrets\.DOCKERHUB_TOKEN \}\}|HAS_TOKEN: \$\{\{ secrets\.DOCKERHUB_TOKEN != '' \}\}"
        r"|(?P<name>DOCKERHUB_TOKEN|DEPLOY_SSH_KEY|SERVICE_SECRETS): \$\{\{ secrets\.(?P=name) \}\})"
        r"( # .*)?"
    )
    for where, line in lines():
        if "secrets." in line:
            assert allowed.fullmatch(line), where
    assert not any(body.get("secrets") == "inherit" for body in JOBS.values())


def names_of(job: str) -> list[str]:
    """Return the names of the steps of a job of ci.yml."""
    return [step["name"] for step in JOBS["ci.yml", job]["steps"]]


def test_only_one_job_publishes() -> None:
    """The job that has the token builds nothing and runs nothing of the image; every other job has passed by then.

    It is skipped by default if a job that it needs was skipped, so its condition names what must have passed:
    https://docs.github.com/actions/reference/workflows-and-actions/workflow-syntax#jobsjob_idneeds
    """
    job = JOBS["ci.yml", "publish"]
    assert job["needs"] == ["check", "service", "image", "arm64"]
    assert JOBS["ci.yml", "image"]["needs"] == ["check", "service"]
    assert job["if"].split(" && ") == [
        "!cancelled()",
        "needs.image.result == 'success'",
        "needs.image.outputs.publish == 'true'",
        "(needs.image.outputs.arm64 == 'false' || needs.arm64.outputs.digest == needs.image.outputs.digest)",
    ]
    assert not {"Build image", "Smoke-test image"} & set(names_of("publish"))
    for name in ("image", "arm64"):  # a job that fails reports no digest
        assert "steps.test.outputs.digest" in JOBS["ci.yml", name]["outputs"]["digest"]
        assert not {"Log in", "Push image"} & set(names_of(name))


def test_the_token_belongs_to_an_environment() -> None:
    """Whatever job uses a secret belongs to an environment, whose branch policy keeps it from other branches.

    https://docs.github.com/actions/reference/workflows-and-actions/deployments-and-environments
    """
    using = {key for key, body in JOBS.items() if "steps" in body and re.search(r"secrets\.\w+ }}", str(body))}
    assert using == {("ci.yml", "publish"), ("redeploy.yml", "redeploy")}
    assert all(JOBS[key]["environment"] for key in using)
    assert JOBS["ci.yml", "publish"]["environment"] == "publish"


def test_nothing_is_published_without_its_attestations() -> None:
    """The digest that was tested is attested first, then pushed, then given its names."""
    names = names_of("publish")
    order = ["Load image", "Report tests", "Log in", "Look at registry", "Attest origin"]
    order += ["Attest packages on linux/amd64", "Attest packages on linux/arm64", "Attest test result"]
    order += ["Push image", "Promote image"]
    assert [name for name in names if name in order] == order
    steps = {step["name"]: step for step in JOBS["ci.yml", "publish"]["steps"]}
    for name in ("Attest origin", "Attest test result"):
        assert steps[name]["with"]["subject-digest"] == "${{ needs.image.outputs.digest }}"
    assert steps["Attest test result"]["with"]["predicate-type"] == TEST_RESULT
    assert steps["Push image"]["env"]["DIGEST"] == "${{ needs.image.outputs.digest }}"


def test_each_platform_has_its_bill_of_materials() -> None:
    """The file of a platform is attested for that platform's digest; `sbom-path` makes the kind CycloneDX's.

    https://github.com/actions/attest/blob/main/action.yml, and its src/sbom.ts
    """
    steps = {step["name"]: step for step in JOBS["ci.yml", "publish"]["steps"]}
    for platform in PLATFORMS:
        name = platform.replace("/", "-")
        options = steps[f"Attest packages on {platform}"]["with"]
        assert options["sbom-path"] == f"build/tested/image/packages-{name}.cdx.json"
        assert options["subject-digest"] == f"${{{{ steps.report.outputs.{name} }}}}"


def test_docker_hub_without_a_stored_token() -> None:
    """Without a password, docker/login-action 4.5 and newer logs in by OIDC: its README, "Docker Hub"."""
    step = next(step for step in JOBS["ci.yml", "publish"]["steps"] if step["name"] == "Log in")
    version = re.search(r"docker/login-action@\w+ # v(\d+)\.(\d+)", (FOLDER / "ci.yml").read_text("utf-8"))
    assert version
    assert tuple(map(int, version.groups())) >= (4, 5)
    assert step["env"] == {"DOCKERHUB_OIDC_CONNECTIONID": "${{ vars.DOCKERHUB_OIDC_CONNECTIONID }}"}
    assert JOBS["ci.yml", "publish"]["permissions"]["id-token"] == "write"


def test_artifacts_are_replaced_and_kept_for_a_day() -> None:
    """A second attempt of a job hands over again: an artifact's name is taken otherwise. Only lists of packages stay.

    https://github.com/actions/upload-artifact#inputs
    """
    uploads = [step["with"] for _, step in STEPS if "upload-artifact" in step.get("uses", "")]
    assert {each["name"]: each.get("retention-days") for each in uploads} == {"image": 1, "arm64": 1, "packages": None}
    assert all((each["overwrite"], each["if-no-files-found"]) == (True, "error") for each in uploads)


def test_redeploy_runs_from_main_or_a_release() -> None:
    """Of another branch it would run that branch's scripts with the deploy key."""
    first = JOBS["redeploy.yml", "redeploy"]["steps"][0]
    assert first["run"] == 'test "$ALLOWED" = true'
    allowed = "${{ github.ref == 'refs/heads/main' || startsWith(github.ref, 'refs/tags/v') }}"
    assert first["env"]["ALLOWED"] == allowed


def test_one_job_gates_the_branch() -> None:
    """The job `required` waits for every other job, runs in any case, and fails unless each one succeeded.

    A job that is skipped counts as passed for a branch rule, so this one must not be skipped:
    https://docs.github.com/actions/how-tos/write-workflows/choose-when-workflows-run/control-jobs-with-conditions
    """
    job = JOBS["ci.yml", "required"]
    others = [name for name in WORKFLOWS["ci.yml"]["jobs"] if name != "required"]
    assert (job["if"], job["needs"], job["name"]) == ("always()", others, "required")
    results = job["steps"][0]["env"]["RESULTS"]
    assert all(f"needs.{name}.result" in results for name in others)
    expected = job["steps"][0]["run"].partition("=")[2]
    assert expected.count("success") + expected.count("as-planned") == len(others)
    for name, planned in (("arm64", "arm64"), ("publish", "publish")):
        may_be_skipped = f"needs.{name}.result == (needs.image.outputs.{planned} == 'true' && 'success' || 'skipped')"
        assert f"{may_be_skipped} && 'as-planned'" in results


def test_no_run_deploys_what_is_not_verified() -> None:
    """A proof is waived by a person, on a machine of their own: scripts/redeploy.py refuses it in a workflow, too.

    The version that somebody types into a form comes after `--`, so it cannot be an option.
    """
    assert not any("--unverified" in line for _, line in lines())
    (redeploy,) = (command for _, command in RUNS if "scripts/redeploy.py" in command)
    assert redeploy.endswith(' -- "$VERSION"')


def test_failures_are_failures() -> None:
    """No step and no job may fail unseen."""
    assert not any("continue-on-error" in step for _, step in STEPS)
    assert not any("continue-on-error" in body for body in JOBS.values())


def test_redeploy_is_the_same_by_hand_and_by_call() -> None:
    """What a person can choose, a workflow can."""
    events = WORKFLOWS["redeploy.yml"]["on"]
    assert list(events["workflow_dispatch"]["inputs"]) == list(events["workflow_call"]["inputs"])


def test_the_weekly_look_is_harmless() -> None:
    """In a copy with nothing set, nothing of it runs; it has no secret; nothing is built unless something has moved.

    What runs by the clock runs on the default branch only, and not in a fork before its owner says so:
    https://docs.github.com/actions/reference/workflows-and-actions/events-that-trigger-workflows#schedule
    """
    jobs = WORKFLOWS["weekly.yml"]["jobs"]
    for name in ("base", "scan"):
        assert jobs[name]["if"] == "vars.DOCKERHUB_USERNAME != '' || vars.IMAGE_NAMESPACE != ''"
    assert (jobs["offer"]["needs"], jobs["offer"]["if"]) == ("base", "needs.base.outputs.offer != ''")
    assert "secrets." not in (FOLDER / "weekly.yml").read_text("utf-8")
    for step in jobs["base"]["steps"][2:]:
        assert step["if"] == "steps.look.outputs.moved == 'true'"
    assert len(WORKFLOWS["weekly.yml"]["on"]["schedule"]) == 1


def test_no_cache() -> None:
    """Nothing is kept between runs, so nothing there can be poisoned or go stale.

    docker/setup-qemu-action keeps an unpinned image in the Actions cache by default, and runs it privileged: its
    action.yml, `cache-image` and `image`. scripts/engine.py installs QEMU from the distribution.
    """
    assert not any("cache" in text.lower() for workflow in WORKFLOWS.values() for text in texts(workflow))
    assert not any("setup-qemu" in step.get("uses", "") for _, step in STEPS)


def test_workflows_are_short() -> None:
    """There are four, and each can be read in one sitting."""
    assert [file.name for file in FILES] == ["ci.yml", "redeploy.yml", "release.yml", "weekly.yml"]
    assert all(len(file.read_text("utf-8").splitlines()) < 450 for file in FILES)


def test_updates_are_grouped_and_wait() -> None:
    """Dependabot opens one pull request for each kind, seven days after a release.

    https://docs.github.com/code-security/dependabot/working-with-dependabot/dependabot-options-reference
    """
    assert all(update["cooldown"] == {"default-days": 7} for update in UPDATES)
    assert all(len(update["groups"]) == 1 for update in UPDATES)


# Which files Dependabot reads in a folder: FILENAME_REGEX and the like of each file_fetcher.rb in
# https://github.com/dependabot/dependabot-core
READS = {
    "docker": re.compile(r"dockerfile", re.I),
    "docker-compose": re.compile(r"(docker-)?compose(-\w+)?(\.[\w-]+)?\.ya?ml", re.I),
    "github-actions": re.compile(r"\.github"),
    "uv": re.compile(r"requirements.*\.in"),
}


LOOKED_AT = [
    (update["package-ecosystem"], folder)
    for update in UPDATES
    for folder in update.get("directories", [update.get("directory")])
]


@pytest.mark.parametrize(("kind", "folder"), LOOKED_AT)
def test_updates_have_something_to_read(kind: str, folder: str) -> None:
    """Each kind reads a file that is there: `docker` reads no Compose file; `docker-compose`, only what is so named."""
    assert any(READS[kind].search(file.name) for file in (ROOT / folder.strip("/")).iterdir())


FILES_OF_IMAGES = [
    file.relative_to(ROOT) for pattern in ("*.y*ml", "deploy/*.y*ml") for file in sorted(ROOT.glob(pattern))
]


@pytest.mark.parametrize("file", FILES_OF_IMAGES, ids=str)
def test_every_image_is_kept_current(file: Path) -> None:
    """Whatever names an image for Compose or the stack is a file that Dependabot reads.

    It would read Kubernetes' files as well (docker/lib/dependabot/shared/shared_file_fetcher.rb there), but ours names
    only the service's own image.
    """
    content = next(yaml.safe_load_all((ROOT / file).read_text("utf-8")))
    if any("image" in service for service in content.get("services", {}).values()):
        assert READS["docker-compose"].search(file.name)
        assert ("docker-compose", f"/{file.parent}".removesuffix(".")) in LOOKED_AT


def test_requirements_are_updated_by_what_compiles_them() -> None:
    """`pip` compiles with pip-compile, which drops what --universal kept; `uv` takes its options from the file's head.

    compile_file_updater.rb in https://github.com/dependabot/dependabot-core/tree/main/uv
    """
    kinds = {update["package-ecosystem"] for update in UPDATES}
    assert kinds == set(READS)
    for name in ("requirements", "requirements-dev"):
        head = (ROOT / f"{name}.txt").read_text("utf-8").splitlines()[1]
        options = "--universal --python-version 3.11 --no-strip-extras --generate-hashes"
        assert head == f"#    uv pip compile {options} {name}.in -o {name}.txt"
