from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from headgate import reading
from headgate.findings import Finding
from headgate.params import Fault, ParameterError, share
from headgate.process import InstanceType, Issuer, Process, Settings
from headgate.reading import Reading
from headgate.target import ModelPin, SourcePath
from headgate.workload import Scaling
from headgate_kit.worktree import WorkTree
from headgate_policies.gates.expression import gate as expression
from headgate_policies.gates.metric import gate as metric

ENDPOINT = "name: fraud\nauth_mode: key\ntraffic:\n  blue: 90\n  green: 10\n"
DEPLOYMENT = """\
name: {name}
model:
  path: ../model/m.pkl
code_configuration:
  code: ../../../code
  scoring_script: score.py
environment:
  conda_file: ../../../code/conda.yml
instance_type: Small
"""
CONDA = """\
channels: [conda-forge]
dependencies:
  - python=3.11
  - numpy=1.24
  - conda-forge::pandas>=2,<3
  - pytorch
  - pip
  - cudatoolkit=11
  - pip:
      - scikit-learn[extra]==1.5.2
"""
BASE = {
    "code/score.py": "def init(): ...\n",
    "code/conda.yml": CONDA,
    "endpoints/fraud/endpoint.yml": ENDPOINT,
    "endpoints/fraud/model/m.pkl": "weights",
    "endpoints/fraud/deployments/blue.yml": DEPLOYMENT.format(name="blue"),
    "endpoints/fraud/deployments/green.yml": DEPLOYMENT.format(name="green"),
}
BLUE = "endpoints/fraud/deployments/blue.yml"
PROM = "metrics: {prom: {kind: prometheus, url: 'http://prometheus:9090'}}"


@dataclass
class Repo:
    root: Path

    def write(self, changes: Mapping[str, str | None]) -> WorkTree:
        for path, text in changes.items():
            file = self.root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                file.unlink()
            else:
                file.write_text(text)
        return WorkTree(self.root)

    def read(self, changes: Mapping[str, str | None] | None = None, **more: Any) -> Reading:
        tree = self.write(changes or {})
        settings = more.pop("settings", None) or reading.read_settings(tree)[0]
        return reading.read_endpoint(tree, "fraud", settings, **more)


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    made = Repo(tmp_path)
    made.write(BASE)
    return made


def errors(read: Reading) -> list[Finding]:
    assert (read.target is None) == any(f.is_error for f in read.findings)
    return [f for f in read.findings if f.is_error]


def error(read: Reading) -> Finding:
    (finding,) = errors(read)
    return finding


def blue(text: str) -> dict[str, str]:
    return {BLUE: text}


def test_a_commit_becomes_a_target(repo: Repo) -> None:
    read = repo.read()
    target = read.target
    assert target
    blue, green = target.deployments["blue"], target.deployments["green"]
    assert target.traffic == {blue.revision: 900, green.revision: 100}
    assert blue.source.scoring_script == "score.py"
    assert blue.source.code
    assert blue.source.code.path == "code"
    assert blue.source.model
    assert (blue.source.model.name, blue.source.model.version) == ("m", "1")
    assert blue.source.environment.python == "3.11"
    assert blue.source.environment.requirements == (
        "numpy==1.24.*",
        "pandas>=2,<3",
        "torch",
        "scikit-learn[extra]==1.5.2",
    )
    assert blue.source.instance_type == "small"
    assert [(f.code, str(f.place)) for f in read.findings] == [("conda-file", "code/conda.yml:8:5")]


def test_revisions_are_the_ones_written_down(repo: Repo) -> None:
    target = repo.read().target
    assert target
    assert {name: d.revision for name, d in target.deployments.items()} == {
        "blue": "037abcb18002fcc1",
        "green": "2c5fccddd8fac275",
    }


def test_files_name_everything_the_endpoint_depends_on(repo: Repo) -> None:
    added = {"endpoints/fraud/rollout.yml": "soak: 1m\n", "endpoints/fraud/deployments/sample-request.json": "{}"}
    read = repo.read({**added, "headgate.yml": "removal_grace: 1m\n"})
    expected = {*BASE, *added, "headgate.yml", "code"} - {"code/score.py"}
    assert set(read.files) == expected
    assert read.target
    assert read.target.files == read.files
    tree = WorkTree(repo.root)
    assert all(tree.object_id(path) == object_id for path, object_id in read.files.items())


def test_a_change_of_the_script_changes_the_revision_and_tags_do_not(repo: Repo) -> None:
    before = repo.read().target
    tagged = repo.read(blue(DEPLOYMENT.format(name="blue") + "tags: {a: 1}\ninstance_count: 3\n")).target
    changed = repo.read({"code/score.py": "def init(): pass\n"}).target
    assert before
    assert tagged
    assert changed
    assert tagged.deployments["blue"].revision == before.deployments["blue"].revision
    assert tagged.deployments["blue"].run.instance_count == 3
    assert changed.deployments["blue"].revision != before.deployments["blue"].revision


@pytest.mark.parametrize(
    ("traffic", "code", "fix"),
    [
        ("{blue: 90, green: 5}", "traffic-sum", "raise `blue` to 95, or list the deployment that takes the other 5"),
        ("{blue: 90, green: 20}", "traffic-sum", "lower `blue` to 80"),
        ("{blue: 90, gren: 10}", "traffic-unknown", "did you mean `green`?"),
    ],
)
def test_traffic_must_be_whole_and_known(repo: Repo, traffic: str, code: str, fix: str) -> None:
    finding = error(repo.read({"endpoints/fraud/endpoint.yml": f"name: fraud\ntraffic: {traffic}\n"}))
    assert (finding.code, finding.fix) == (code, fix)


@pytest.mark.parametrize("traffic", ["{}", "{blue: 0, green: 0}"])
def test_no_traffic_is_drained(repo: Repo, traffic: str) -> None:
    target = repo.read({"endpoints/fraud/endpoint.yml": f"name: fraud\ntraffic: {traffic}\n"}).target
    assert target
    assert target.traffic == {}


@pytest.mark.parametrize(
    ("mirror", "codes"),
    [
        ("{green: 10}", []),
        ("{blue: 10}", ["mirror-traffic"]),
        ("{green: 10, red: 5}", ["mirror-traffic", "traffic-unknown"]),
    ],
)
def test_mirror_traffic_goes_to_one_deployment_without_live_traffic(repo: Repo, mirror: str, codes: list[str]) -> None:
    text = f"name: fraud\ntraffic: {{blue: 100}}\nmirror_traffic: {mirror}\n"
    read = repo.read({"endpoints/fraud/endpoint.yml": text})
    assert sorted(f.code for f in errors(read)) == codes
    if read.target:
        assert read.target.router.mirror == {read.target.deployments["green"].revision: 100}


def test_tunnels_are_a_setting_of_the_router_and_of_deployments_there_are(repo: Repo) -> None:
    before = repo.read().target
    after = repo.read({"endpoints/fraud/rollout.yml": "websocket: [green]\n"}).target
    assert before
    assert after
    assert after.router.websocket == ("green",)
    assert (after.router_digest != before.router_digest, after.run_digest) == (True, before.run_digest)
    assert after.revisions.keys() == before.revisions.keys()
    finding = error(repo.read({"endpoints/fraud/rollout.yml": "soak: 1m\nwebsocket: [blue, gren]\n"}))
    assert (finding.code, finding.fix) == ("websocket-unknown", "did you mean `green`?")
    assert str(finding.place) == "endpoints/fraud/rollout.yml:2:19"


MODEL, CODE, TYPE = "path: ../model/m.pkl", "code: ../../../code", "instance_type: Small"


@pytest.mark.parametrize(
    ("old", "new", "code", "place"),
    [
        (MODEL, "path: ../model/n.pkl", "path-missing", 3),
        (MODEL, "path: ../../../../outside", "path-outside", 3),
        (MODEL, "path: /etc/passwd", "path-outside", 3),
        (MODEL, "path: ~/m", "path-outside", 3),
        (MODEL, "path: ..\\model", "path-outside", 3),
        (MODEL, "path: https://example.org/m", "not-here", 3),
        (MODEL, "name: x", "missing-field", 2),
        (CODE, "code: ../../..", "path-outside", 5),
        (CODE, "code: ../../../code/score.py", "path-missing", 5),
        ("scoring_script: score.py", "scoring_script: scor.py", "script-missing", 6),
        ("scoring_script: score.py", "scoring_script: ../code/score.py", "path-outside", 6),
        ("conda_file: ../../../code/conda.yml", "image: x\n  build: {path: .}", "not-here", 7),
        ("name: blue", "name: green", "duplicate-name", 1),
        ("name: blue", "name: blue\nendpoint_name: other", "name-mismatch", 2),
        (TYPE, f"{TYPE}\nenvironment_variables: {{A: '${{{{azureml://c}}}}'}}", "secret-reference", 10),
        (TYPE, f"{TYPE}\nenvironment_variables: {{A: '${{{{secretref:headgate-x/k}}}}'}}", "secret-reference", 10),
        (TYPE, f"{TYPE}\nenvironment_variables: {{A: 'x${{{{secretref:db/url}}}}'}}", "secret-reference", 10),
        (TYPE, f"{TYPE}\nenvironment_variables: {{A: [1]}}", "bad-value", 10),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_a_finding_at_its_line(repo: Repo, old: str, new: str, code: str, place: int) -> None:
    text = DEPLOYMENT.format(name="blue").replace(old, new)
    found = [f for f in errors(repo.read(blue(text))) if f.code != "traffic-unknown"]
    assert [f.code for f in found] == [code]
    line = found[0].place.line
    assert line == place or code == "duplicate-name"


def test_a_reference_to_a_secret_of_the_cluster_is_kept_as_it_is_written(repo: Repo) -> None:
    text = DEPLOYMENT.format(name="blue") + "environment_variables: {DB: '${{secretref:db/url}}'}\n"
    reading = repo.read(blue(text))
    assert reading.target is not None
    assert reading.target.deployments["blue"].source.variables == {"DB": "${{secretref:db/url}}"}


def test_a_link_is_never_followed(repo: Repo) -> None:
    (repo.root / "endpoints/fraud/model/link").symlink_to("/etc")
    text = DEPLOYMENT.format(name="blue").replace("../model/m.pkl", "../model/link/passwd")
    assert error(repo.read(blue(text))).code == "path-link"
    (repo.root / "code/out").symlink_to("../../elsewhere")
    assert {f.code for f in errors(repo.read(BASE))} == {"path-link"}
    (repo.root / "code/out").unlink()
    (repo.root / "code/alias.py").symlink_to("score.py")
    assert repo.read().target


def test_a_registered_model_is_looked_up(repo: Repo) -> None:
    asked = []

    def pin(ref: str, asked_in: str) -> ModelPin:
        assert asked_in.startswith("endpoints/fraud/deployments/blue.yml@")
        asked.append(ref)
        if "fraud" not in ref:
            raise LookupError("known: fraud")
        return ModelPin("fraud", "7", None, "fraud/7", "abc")

    def model(ref: str) -> dict[str, str]:
        return blue(DEPLOYMENT.format(name="blue").replace("model:\n  path: ../model/m.pkl", f"model: {ref}"))

    target = repo.read(model("azureml://registries/r/models/fraud/labels/latest"), pin=pin).target
    assert target
    assert target.deployments["blue"].source.model == ModelPin("fraud", "7", None, "fraud/7", "abc")
    unknown = error(repo.read(model("azureml:frd:1"), pin=pin))
    assert (unknown.code, unknown.why) == ("model-unknown", "known: fraud")
    assert asked == ["azureml:fraud@latest", "azureml:frd:1"]
    assert error(repo.read(model("azureml:fraud:1"))).code == "model-unknown"
    preview = repo.read(model("azureml:fraud:1"), settings=Settings(catalogue="models"))
    assert "model-not-resolved" in [f.code for f in preview.findings]


def test_a_registered_environment_is_an_alias(repo: Repo) -> None:
    settings = Settings(environments={"sklearn-1.5": ("scikit-learn==1.5.2",)})

    def environment(ref: str) -> dict[str, str]:
        old = "environment:\n  conda_file: ../../../code/conda.yml"
        return blue(DEPLOYMENT.format(name="blue").replace(old, f"environment: {ref}"))

    registry = "azureml://registries/azureml/environments/sklearn-1.5/versions/9"
    target = repo.read(environment(registry), settings=settings).target
    assert target
    assert target.deployments["blue"].source.environment.requirements == ("scikit-learn==1.5.2",)
    assert "sklearn-1.5" in error(repo.read(environment("azureml:sklearn-1.4:1"), settings=settings)).fix


def test_a_scoring_script_without_an_environment_is_warned_of_and_served(repo: Repo) -> None:
    bare = DEPLOYMENT.format(name="blue").split("environment:")[0] + "instance_type: Small\n"
    read = repo.read(blue(bare))
    assert [(f.code, f.is_error) for f in read.findings if f.place.file == BLUE] == [("no-environment", False)]
    assert read.target


def test_an_instance_type_must_be_known_when_any_is(repo: Repo) -> None:
    known = Settings(instance_types={"small": InstanceType(), "large": InstanceType()})
    assert repo.read(settings=known).target
    finding = error(repo.read(blue(DEPLOYMENT.format(name="blue").replace("Small", "smal")), settings=known))
    assert finding.code == "instance-type"
    assert finding.fix.startswith("did you mean `small`? Else add `smal: {cpus: 2, memory_gb: 4}`")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"endpoints/fraud/endpoint.yml": None}, "endpoint-missing"),
        ({"endpoints/fraud/endpoint.yaml": ENDPOINT}, "duplicate-name"),
        ({"endpoints/fraud/endpoint.yml": ENDPOINT.replace("fraud", "frauds")}, "name-mismatch"),
        ({"endpoints/fraud/endpoint.yml": ENDPOINT.replace("key", "aad_token")}, "oidc-missing"),
        ({"endpoints/fraud/endpoint.yml": "[" * 30_000}, "yaml-depth"),
        ({"endpoints/fraud/endpoint.yml": "x" * 300_000}, "yaml-size"),
        ({"endpoints/fraud/rollout.yml": "smoke: {request: other.json}\n"}, "path-missing"),
        ({"code/conda.yml": "dependencies:\n  - pip:\n    - --index-url=https://example.org\n"}, "conda-file"),
    ],
)
def test_an_endpoint_that_cannot_be_read_is_a_finding(repo: Repo, changes: dict[str, str | None], code: str) -> None:
    assert {f.code for f in errors(repo.read(changes))} == {code}


def test_who_may_call_is_a_setting_of_the_router(repo: Repo) -> None:
    issuer = {"headgate.yml": "oidc: {issuer: https://idp.example, audience: [api://scoring]}\n"}
    keys = repo.read(issuer).target
    tokens = repo.read({"endpoints/fraud/endpoint.yml": ENDPOINT.replace("key", "AADToken")}).target
    assert keys
    assert tokens
    assert (keys.router.auth_mode, keys.router.issuer) == ("key", None)
    assert tokens.router.auth_mode == "aad_token"
    assert tokens.router.issuer == Issuer("https://idp.example", ("api://scoring",))
    assert tokens.router_digest != keys.router_digest
    assert tokens.revisions.keys() == keys.revisions.keys(), "who may call changes no answer"


def test_azures_own_fields_are_noticed(repo: Repo) -> None:
    text = DEPLOYMENT.format(name="blue") + "app_insights_enabled: true\nscale_settings: {type: default}\n"
    read = repo.read(blue(text))
    assert read.target
    assert [(f.code, str(f.place)) for f in read.findings][1:] == [("ignored-field", f"{BLUE}:10:1")]


@pytest.mark.parametrize(
    ("count", "starts"),
    [pytest.param("", 2, id="none"), pytest.param("instance_count: 1\n", 2, id="too few"),
     pytest.param("instance_count: 3\n", 3, id="within"), pytest.param("instance_count: 9\n", 4, id="too many")],
)  # fmt: skip
def test_scaling_is_a_run_setting_and_its_limits_hold_for_what_starts(repo: Repo, count: str, starts: int) -> None:
    plain = DEPLOYMENT.format(name="blue")
    limits = "{type: target_utilization, min_instances: 2, max_instances: 4}"
    fixed, scaled = (
        repo.read(blue(plain)),
        repo.read(blue(f"{plain}type: kubernetes\nscale_settings: {limits}\n{count}")),
    )
    assert fixed.target
    assert scaled.target
    run = scaled.target.deployments["blue"].run
    assert (run.scaling, run.instance_count) == (Scaling(2, 4), starts)
    assert scaled.target.revisions.keys() == fixed.target.revisions.keys()
    (noticed,) = [f for f in scaled.findings if f.code == "clusters-only"]
    assert f"one machine runs {starts}" in noticed.message
    assert not noticed.is_error


def test_a_conda_file_beside_the_deployments_is_no_deployment(repo: Repo) -> None:
    assert repo.read({"endpoints/fraud/deployments/conda.yml": CONDA}).target


def test_an_unchanged_file_is_read_once(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    cache: dict[Any, Any] = {}
    first = repo.read(cache=cache)
    opened = []
    whole = WorkTree.read
    monkeypatch.setattr(WorkTree, "read", lambda tree, path, limit: opened.append(path) or whole(tree, path, limit))
    again = repo.read(blue(DEPLOYMENT.format(name="blue") + "instance_count: 2\n"), cache=cache)
    assert opened == [BLUE]
    assert again.findings == first.findings


def test_a_whole_repo_is_read_by_name(repo: Repo) -> None:
    other = {path.replace("fraud", "FRAUD"): text.replace("fraud", "FRAUD") for path, text in BASE.items()}
    tree = repo.write({**other, "endpoints/README.md": "x"})
    readings = reading.read_all(tree, Settings())
    assert list(readings) == ["FRAUD", "fraud"]
    assert readings["FRAUD"].target
    assert error(readings["fraud"]).code == "name-case"


def test_a_sample_request_that_would_never_be_sent_is_a_finding(repo: Repo) -> None:
    path = "endpoints/fraud/deployments/sample-request.json"
    at_most = repo.read({path: "x" * reading.MAX_SAMPLE})
    assert at_most.target is not None
    found = error(repo.read({path: "x" * (reading.MAX_SAMPLE + 1)}))
    assert (found.code, found.place.file) == ("path-size", path)


def test_the_sample_request_may_lie_beside_the_deployment_or_the_endpoint(repo: Repo) -> None:
    target = repo.read({"endpoints/fraud/sample-request.json": "{}"}).target
    assert target
    found = target.deployments["blue"].smoke_request
    assert isinstance(found, SourcePath)
    assert found.path == "endpoints/fraud/sample-request.json"


@dataclass(frozen=True)
class Parameters:
    max_increase: float = share(0.005)
    quantile: float = 0.99


def test_gates_are_checked_against_those_installed(repo: Repo) -> None:
    text = "gates:\n  errors: {max_increase: 0.5%}\n  latency-p99: {max_incrase: 1%}\n  eror:\n"
    tree = repo.write({"endpoints/fraud/rollout.yml": text})
    read = repo.read()
    found = reading.check_gates(read, tree, {"errors": Parameters, "latency": Parameters})
    assert [(f.code, f.place.line) for f in found] == [("gate-parameter", 3), ("gate-unknown", 4)]
    default = repo.write({"endpoints/fraud/rollout.yml": None, "headgate.yml": "rollout:\n  gates: {eror: }\n"})
    found = reading.check_gates(repo.read(), default, {"errors": Parameters})
    assert str(found[0].place) == "headgate.yml:2:11"


@dataclass(frozen=True)
class Documented:
    schema: Any = None
    text: str = ""

    def __post_init__(self) -> None:
        line, column = next(
            ((n, t.find("bad") + 1) for n, t in enumerate(self.text.split("\n"), 1) if "bad" in t), (0, 0)
        )
        if line:
            raise ParameterError(Fault("text", f"{line}:{column}: bad", line, column))


def test_a_gates_parameter_may_be_a_file(repo: Repo) -> None:
    at = "endpoints/fraud/rollout.yml"
    repo.write(
        {at: "gates:\n  schema: {schema: {file: shape.json}}\n", "endpoints/fraud/shape.json": '{"type": "array"}'}
    )
    read = repo.read()
    assert read.target is not None
    assert read.target.process.gates == {"schema": {"schema": {"type": "array"}}}
    assert "endpoints/fraud/shape.json" in read.files
    repo.write({at: None, "headgate.yml": "rollout: {gates: {schema: {schema: {file: shapes/one.json}}}}\n",
                "shapes/one.json": "{}"})  # fmt: skip
    again = repo.read()
    assert again.target is not None
    assert again.target.process.gates == {"schema": {"schema": {}}}


@pytest.mark.parametrize(
    ("file", "code"),
    [("none.json", "path-missing"), ("../../../etc/passwd", "path-outside"), ("bad.json", "yaml-syntax")],
)
def test_a_gates_file_that_cannot_be_read_is_a_finding(repo: Repo, file: str, code: str) -> None:
    repo.write({"endpoints/fraud/rollout.yml": f"gates:\n  schema: {{schema: {{file: {file}}}}}\n",
                "endpoints/fraud/bad.json": "{"})  # fmt: skip
    assert error(repo.read()).code == code


@pytest.mark.parametrize(
    ("written", "place"),
    [
        ('{text: "so bad"}', "2:17"),
        ("{text: so bad}", "2:16"),
        ("\n    text: |\n      so\n      far bad\n", "5:11"),
        ('{text: "s\\u006f bad"}', "2:13"),
    ],
    ids=["quoted", "plain", "block", "escaped"],
)
def test_a_fault_inside_a_text_has_its_line_and_column(repo: Repo, written: str, place: str) -> None:
    tree = repo.write({"endpoints/fraud/rollout.yml": f"gates:\n  e: {written}\n"})
    (found,) = reading.check_gates(repo.read(), tree, {"e": Documented})
    assert str(found.place) == f"endpoints/fraud/rollout.yml:{place}"


def test_an_expression_is_compiled_where_it_is_written(repo: Repo) -> None:
    text = "gates:\n  expr: candidate.error_rate < 0.5 && canary.p98 < 3.0\n"
    tree = repo.write({"endpoints/fraud/rollout.yml": text})
    (found,) = reading.check_gates(repo.read(), tree, {"expr": expression.params})
    assert (str(found.place), found.code) == ("endpoints/fraud/rollout.yml:2:39", "gate-parameter")
    assert found.message == "gate `expr`: 1:31: undeclared reference 'canary.p98'"


@pytest.mark.parametrize(
    ("gate", "settings", "code", "says"),
    [
        ("{source: prom, query: up, max: 1}", PROM, "", ""),
        ("{source: prim, query: up, max: 1}", PROM, "metric-source", "no metric source `prim`"),
        ("{source: prom, query: up, max: 1}", "removal_grace: 1m", "metric-source", "no metric source `prom`"),
        ("{source: prom, max: 1}", PROM, "gate-parameter", "`query` is missing"),
        ("{source: prom, query: up}", PROM, "gate-parameter", "there is no limit"),
    ],
    ids=["fine", "misspelt", "none", "no-query", "no-limit"],
)  # fmt: skip
def test_a_metric_needs_a_source_a_query_and_a_limit(
    repo: Repo, gate: str, settings: str, code: str, says: str
) -> None:
    tree = repo.write({"endpoints/fraud/rollout.yml": f"gates:\n  metric: {gate}\n", "headgate.yml": settings + "\n"})
    found = reading.check_gates(repo.read(), tree, {"metric": metric.params})
    assert [f.code for f in found] == ([code] if code else [])
    assert all(says in f.message and f.place.line == 2 for f in found)


def test_rollout_yml_is_merged_over_the_default_process(repo: Repo) -> None:
    changes = {"headgate.yml": "rollout: {soak: 1m, steps: [50, 100]}\n", "endpoints/fraud/rollout.yml": "soak: 30s\n"}
    target = repo.read(changes).target
    assert target
    assert target.process == replace(Process(), soak_s=30.0, steps=(50.0, 100.0))
