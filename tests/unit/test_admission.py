"""Rules of policies/ over the documents of a real folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from headgate.findings import Finding, Severity
from headgate_kit.worktree import WorkTree
from headgate_policies.admission import MAX_RULES, check

ENDPOINT = "name: fraud\nauth_mode: key\ntraffic: {blue: 100}\ntags:\n  team: risk\n"
BLUE = "name: blue\ninstance_type: gpu-small\ninstance_count: 3\nenvironment:\n  image: docker.io/library/x\n"
RULE = """\
rules:
  - name: few-gpus
    when: "deployment.instance_type.startsWith('gpu')"
    must: "deployment.instance_count <= 2"
    message: more than two GPU replicas
    fix: ask the platform team
    at: instance_count
"""


class Repo:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("endpoints/fraud/endpoint.yml", ENDPOINT)
        self.write("endpoints/fraud/deployments/blue.yml", BLUE)

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def check(self, rules: str = "") -> tuple[Finding, ...]:
        if rules:
            self.write("policies/one.yml", rules)
        return check(WorkTree(self.root), ["fraud"])


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return Repo(tmp_path)


def rule(must: str, *, on: str = "deployment", more: str = "") -> str:
    return f"rules:\n  - name: r\n    on: {on}\n    must: {must}\n    message: no\n{more}"


def test_without_policies_nothing_is_said(repo: Repo) -> None:
    assert repo.check() == ()


def test_a_rule_that_does_not_hold_is_a_finding_at_its_field(repo: Repo) -> None:
    (found,) = repo.check(RULE)
    assert (found.code, found.severity, found.message) == ("admission", Severity.ERROR, "more than two GPU replicas")
    assert str(found.place) == "endpoints/fraud/deployments/blue.yml:3:17"
    assert found.fix == "ask the platform team"
    assert found.why == "rule `few-gpus` of policies/one.yml:2:11: deployment.instance_count <= 2"


def test_a_rule_that_holds_or_does_not_apply_says_nothing(repo: Repo) -> None:
    repo.write("endpoints/fraud/deployments/blue.yml", BLUE.replace("3", "2"))
    assert repo.check(RULE) == ()
    repo.write("endpoints/fraud/deployments/blue.yml", BLUE.replace("gpu-", "cpu-"))
    assert repo.check(RULE) == ()


@pytest.mark.parametrize(
    ("must", "on", "file"),
    [
        ("endpoint.tags.team != 'risk'", "endpoint", "endpoint.yml"),
        ("endpoint.traffic.all(d, endpoint.traffic[d] < 100)", "endpoint", "endpoint.yml"),
        ("name.startsWith('x')", "endpoint", "endpoint.yml"),
        ("deployment.environment.image.startsWith('registry.example.org/')", "deployment", "deployments/blue.yml"),
        ("rollout.soak == '10m'", "rollout", "rollout.yml"),
        ("headgate.catalogue != 'models'", "rollout", "rollout.yml"),
    ],
    ids=["endpoint", "macro", "name", "nested", "rollout", "settings"],
)
def test_a_rule_may_speak_of_every_document(repo: Repo, must: str, on: str, file: str) -> None:
    repo.write("endpoints/fraud/rollout.yml", "soak: 5m\n")
    repo.write("headgate.yml", "catalogue: models\n")
    (found,) = repo.check(rule(f'"{must}"', on=on))
    assert (found.message, found.place.file) == ("no", f"endpoints/fraud/{file}")


def test_a_warning_is_said_and_refuses_nothing(repo: Repo) -> None:
    (found,) = repo.check(rule('"false"', more="    severity: warn\n"))
    assert (found.code, found.is_error) == ("admission", False)


def test_a_rule_that_cannot_be_evaluated_lets_nothing_in(repo: Repo) -> None:
    (found,) = repo.check(rule("\"deployment.tags.team == 'x'\""))
    assert found.is_error
    assert "rule `r` cannot be evaluated here: " in found.message
    assert "tags" in found.message
    assert "has(...) in policies/one.yml:2:11" in found.fix
    guarded = rule("\"!has(deployment.tags) || deployment.tags.team == 'x'\"")
    assert repo.check(guarded) == ()


@pytest.mark.parametrize(
    ("rules", "code", "place", "says"),
    [
        (rule('"deploymen.x == 1"'), "policy-rule", "policies/one.yml:4:12", "undeclared reference 'deploymen.x'"),
        (rule('"deployment.x == 1"', on="endpoint"), "policy-rule", "policies/one.yml:4:12", "'deployment.x'"),
        (rule('"name + name"'), "policy-rule", "policies/one.yml:4:12", "is a string, not true or false"),
        ("rules: [{name: a}]\n", "missing-field", "policies/one.yml:1:9", "must"),
        ("rule: []\n", "unknown-field", "policies/one.yml:1:1", "rule"),
        ("rules: [\n", "yaml-syntax", "policies/one.yml", ""),
    ],
    ids=["misspelt", "other-document", "no-bool", "incomplete", "unknown", "no-yaml"],
)
def test_a_rule_that_is_none_is_a_finding_where_it_is(repo: Repo, rules: str, code: str, place: str, says: str) -> None:
    found = repo.check(rules)
    assert any(f.code == code and str(f.place).startswith(place) and says in f.message for f in found), found


def test_work_is_bounded(repo: Repo) -> None:
    nested = "[1,2,3,4,5,6,7,8,9,10]"
    for _ in range(8):
        nested = f"[1,2,3,4,5,6,7,8,9,10].map(x, {nested})"
    (found,) = repo.check(rule(f'"size({nested}) == 0"'))
    assert "cannot be evaluated" in found.message
    many = "rules:\n" + "".join(f"  - {{name: r{n}, must: 'true', message: m}}\n" for n in range(MAX_RULES + 1))
    assert [f.code for f in repo.check(many)] == ["policy-rule"]


def test_a_conda_file_beside_deployments_is_none(repo: Repo) -> None:
    repo.write("endpoints/fraud/deployments/conda.yml", "name: env\nchannels: [x]\ndependencies: [python=3.11]\n")
    assert len(repo.check(RULE)) == 1
