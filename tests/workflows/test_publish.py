"""A push to main that is published, or would be, as its author sees it."""

from __future__ import annotations

from workflows.act import GREEN, NOT_PUBLISHED, PUBLISHED, RED, SLUG, TEST_RESULT, Scenario


def test_first_push_to_main(scenario: Scenario) -> None:
    """Both platforms are tested, and that very image is published as the commit and as edge."""
    scenario.variables["PLATFORMS"] = ""
    run = scenario.run("ci.yml")
    assert (run.exit, run.jobs) == (0, PUBLISHED)
    digest = scenario.digest(scenario.sha)
    assert scenario.tags == {scenario.sha, "edge"}
    assert scenario.digest("edge") == digest
    assert scenario.attested == [f"{scenario.image}@{digest}"] * 2
    tested = scenario.attestations[-1]
    assert (tested["type"], tested["predicate"]["result"]) == (TEST_RESULT, "PASSED")
    assert tested["predicate"]["commit"] == scenario.sha
    assert list(tested["predicate"]["platforms"]) == ["linux/amd64", "linux/arm64"]
    bills = {digest: bill["metadata"]["properties"][0]["value"] for digest, bill in scenario.bills.items()}
    assert bills == {digest: platform for platform, digest in tested["predicate"]["platforms"].items()}
    assert "Attested: how it was built, and that it passed its tests" in run.summary
    assert f"Digest: `{digest}`" in run.summary
    assert f"docker pull {scenario.image}@{digest}" in run.summary
    assert "| Smoke-test linux/arm64 |" in run.summary
    assert "| linux/arm64 | " in run.summary
    assert "```mermaid" in run.summary
    assert f"| `edge` | new | `{digest}` |" in run.summary


def test_push_again(scenario: Scenario) -> None:
    """Running a commit again uses the image that is published; nothing is built and nothing moves."""
    scenario.run("ci.yml")
    digest = scenario.digest(scenario.sha)
    run = scenario.run("ci.yml")
    assert (run.exit, run.jobs) == (0, PUBLISHED)
    assert run.steps.get("Build image", "skipped") == "skipped"
    assert scenario.digest(scenario.sha) == scenario.digest("edge") == digest != ""
    assert "| `edge` | " in run.summary
    assert "| stays |" in run.summary


def test_wrong_token(scenario: Scenario) -> None:
    """A token that the registry refuses: red, one sentence says what to set, nothing is published."""
    scenario.secrets = {"DOCKERHUB_TOKEN": "not-the-token"}
    run = scenario.run("ci.yml")
    assert (run.exit, run.jobs) == (1, NOT_PUBLISHED)
    assert "the variable DOCKERHUB_USERNAME and the secret DOCKERHUB_TOKEN" in run.errors[-1]
    assert "not-the-token" not in run.output
    assert scenario.tags == set()


def test_upper_case_repository(scenario: Scenario) -> None:
    """A repository named Hello-World publishes hello-world, in the registry that REGISTRY names."""
    scenario.variables["IMAGE_REPOSITORY"] = ""
    scenario.image = f"{scenario.variables['REGISTRY']}/octo/hello-world"
    run = scenario.run("ci.yml")
    assert (run.exit, run.jobs) == (0, PUBLISHED)
    assert {scenario.sha, "edge"} <= scenario.tags


def test_registry_recovers(scenario: Scenario) -> None:
    """A registry that fails twice: the push is tried again, and the digest is the tested one."""
    scenario.front.writes_to_fail = 2
    run = scenario.run("ci.yml")
    assert (run.exit, run.jobs) == (0, PUBLISHED)
    assert scenario.front.writes_to_fail == 0
    assert f"Digest: `{scenario.digest(scenario.sha)}`" in run.summary


def test_registry_stays_down(scenario: Scenario) -> None:
    """A registry that takes nothing: red, one sentence, nothing half-published."""
    scenario.front.writes_to_fail = 1_000_000
    run = scenario.run("ci.yml")
    assert (run.exit, run.jobs) == (1, NOT_PUBLISHED)
    assert run.steps["Push image"] == "failure"
    assert f"{scenario.image}:{scenario.sha}" in run.errors[0]
    assert scenario.tags == set()


def test_repository_that_does_not_exist(scenario: Scenario) -> None:
    """A repository that is not there, or another's: red, one sentence says what to check, nothing is published."""
    scenario.front.denies = True
    run = scenario.run("ci.yml")
    assert (run.exit, run.jobs) == (1, NOT_PUBLISHED)
    assert run.steps["Push image"] == "failure"
    assert len(run.errors) == 1
    assert "that the token may write, and that the repository (IMAGE_REPOSITORY) exists" in run.errors[0]
    assert scenario.tags == set()


def test_pushes_in_the_wrong_order(scenario: Scenario) -> None:
    """The older commit's run ends last: both are published, and edge stays on the newer one."""
    older = scenario.sha
    newer = scenario.commit()
    assert scenario.run("ci.yml").exit == 0
    scenario.git("checkout", "--quiet", older)
    run = scenario.run("ci.yml")
    assert (run.exit, run.jobs) == (0, PUBLISHED)
    assert scenario.tags == {older, newer, "edge"}
    assert scenario.digest("edge") == scenario.digest(newer) != scenario.digest(older)


def test_foreign_image(scenario: Scenario) -> None:
    """Somebody else's image on this commit's tag is not taken for ours, and not overwritten."""
    foreign = scenario.put(scenario.sha)
    run = scenario.run("ci.yml")
    assert (run.exit, run.jobs) == (1, RED)
    assert "is not an image index with platforms, so this pipeline did not push it" in run.errors[0]
    assert scenario.digest(scenario.sha) == foreign


def test_an_image_that_arrives_while_ours_is_tested(scenario: Scenario) -> None:
    """Whatever holds the commit's tag by then is neither signed nor promoted: only what was tested is."""
    scenario.front.private = True  # the plan asks before the login, and is told nothing
    foreign = scenario.put(scenario.sha)
    run = scenario.run("ci.yml")
    assert (run.exit, run.jobs) == (1, NOT_PUBLISHED)
    assert run.steps["Look at registry"] == "failure"
    scenario.front.private = False
    assert scenario.digest(scenario.sha) == foreign
    assert scenario.tags == {scenario.sha}
    assert scenario.attested == []


def test_attestation_that_fails(scenario: Scenario) -> None:
    """Nothing is published without its attestations; the next run makes up for it."""
    (scenario.folder / "attest-fails").touch()
    run = scenario.run("ci.yml")
    assert (run.exit, run.jobs) == (1, NOT_PUBLISHED)
    assert "Not attested, so not published: run the failed jobs again" in run.summary
    assert scenario.tags == set()
    (scenario.folder / "attest-fails").unlink()
    assert scenario.run("ci.yml").exit == 0
    assert scenario.attested == [f"{scenario.image}@{scenario.digest(scenario.sha)}"] * 2


def test_private_repository(scenario: Scenario) -> None:
    """A private repository has no attestations on most plans: its image is recorded in a check run, and used again."""
    repository = {"full_name": SLUG, "name": "Hello-World", "private": True, "default_branch": "main"}
    run = scenario.run("ci.yml", payload={"repository": repository})
    assert (run.exit, run.jobs) == (0, PUBLISHED)
    assert scenario.attestations == []
    assert {file.name for file in (scenario.folder / "artifacts/packages").iterdir()} == {
        "packages-linux-amd64.cdx.json"
    }
    assert "Recorded in a check run of the commit: GitHub attests images of public repositories only" in run.summary
    assert scenario.tags == {scenario.sha, "edge"}
    digest = scenario.digest(scenario.sha)
    run = scenario.run("ci.yml", payload={"repository": repository})
    assert (run.exit, run.jobs) == (0, PUBLISHED)
    assert run.steps.get("Build image", "skipped") == "skipped"
    assert scenario.digest("edge") == digest
    scenario.put(scenario.sha, scenario.sha)
    run = scenario.run("ci.yml", payload={"repository": repository})
    assert (run.exit, run.jobs) == (1, RED)
    assert "no check run published-image" in run.errors[0]


def test_arm64_on_a_machine_of_its_own(scenario: Scenario) -> None:
    """The image is handed over whole, tested there, and published with the digest that both jobs report."""
    scenario.variables |= {"PLATFORMS": "", "EMULATE": "false"}
    run = scenario.run("ci.yml")
    assert (run.exit, run.jobs) == (0, {**PUBLISHED, "arm64": "success"})
    digest = scenario.digest(scenario.sha)
    assert scenario.attested == [f"{scenario.image}@{digest}"] * 2
    checks = {check["name"]: check["job"] for check in scenario.attestations[-1]["predicate"]["checks"]}
    assert (checks["Smoke-test linux/amd64"], checks["Smoke-test linux/arm64"]) == ("image", "arm64")


def test_arm64_that_fails_there(scenario: Scenario) -> None:
    """An image that passes on one platform and fails on the other is not published, and nobody logs in."""
    scenario.variables |= {"PLATFORMS": "", "EMULATE": "false"}
    service = (scenario.clone / "src/fixture/__main__.py").read_text("utf-8")
    broken = 'os.environ.get("BREAK", "")'
    assert broken in service
    there = '("text" if os.uname().machine == "aarch64" else "")'
    scenario.commit({"src/fixture/__main__.py": service.replace(broken, there)})
    run = scenario.run("ci.yml")
    assert (run.exit, run.jobs) == (1, {**GREEN, "arm64": "failure", "required": "failure"})
    assert "smoke test on linux/arm64" in run.errors[0]
    assert scenario.front.logins == []
    assert scenario.tags == set()


def test_no_token(scenario: Scenario) -> None:
    """A name without a token: the job that publishes says what to set, and where; nothing is published."""
    scenario.secrets = {}
    run = scenario.run("ci.yml")
    assert (run.exit, run.jobs) == (1, NOT_PUBLISHED)
    assert "the secret DOCKERHUB_TOKEN is not set: set it, for the environment `publish`" in run.errors[0]
    assert scenario.front.logins == []
