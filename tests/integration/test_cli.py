"""The verbs at the desk, on real repos: validate, plan, workflow. Nothing runs but git."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import git
import pytest
import yaml
from click.shell_completion import ShellComplete

from controlstub import ControlStub
from headgate import codec
from headgate.control import EndpointStatus, SystemStatus
from headgate_console import main
from headgate_console.exits import Exit
from headgate_console.init import create


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The template, pushed, with its example taken up in a second commit: what a user has after five minutes."""
    root = tmp_path / "eps"
    create(root, bare_origin=True)
    monkeypatch.chdir(root)
    shutil.copytree(root / "examples" / "hello", root / "endpoints" / "hello")
    commit(root, "hello: first deployment")
    return root


def commit(root: Path, subject: str) -> None:
    with git.Repo(root) as opened:
        opened.git.add("--all")
        opened.index.commit(subject)


def deployment(root: Path, name: str) -> None:
    folder = root / "endpoints" / "hello" / "deployments"
    (folder / f"{name}.yml").write_text((folder / "blue.yml").read_text().replace("name: blue", f"name: {name}"))


def traffic(root: Path, text: str) -> None:
    (root / "endpoints/hello/endpoint.yml").write_text(f"name: hello\ntraffic: {text}\n")


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    code = main.run(argv)
    return code, capsys.readouterr().out


def plans(capsys: pytest.CaptureFixture[str], *argv: str) -> list[dict[str, object]]:
    code, text = run(capsys, "plan", "-o", "json", *argv)
    assert code == Exit.OK
    document = json.loads(text)
    assert document["kind"] == "PlanList"
    items: list[dict[str, object]] = document["items"]
    return items


def test_the_template_with_its_example_is_valid(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "validate") == (Exit.OK, "no findings\n")


def test_the_template_alone_is_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    create(tmp_path / "bare-template")
    assert run(capsys, "validate", str(tmp_path / "bare-template"))[0] == Exit.OK


@pytest.mark.parametrize("verb", ["validate", "plan"])
def test_a_folder_below_the_repo_is_told_where_to_go(
    repo: Path, verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(repo / "endpoints/hello")
    assert main.run([verb]) == Exit.REFUSED
    assert f"fix: run it in {repo}\n" in capsys.readouterr().err


@pytest.mark.parametrize(("typed", "offered"), [("he", ["hello"]), ("", ["hello"]), ("x", [])])
def test_names_are_completed_from_the_folders_where_no_controller_answers(
    repo: Path, typed: str, offered: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HEADGATE_DATA", raising=False)
    monkeypatch.chdir(repo / "endpoints" / "hello")
    shell = ShellComplete(main.cli, {}, "headgate", "_HEADGATE_COMPLETE")
    assert [item.value for item in shell.get_completions(["workflow"], typed)] == offered


def test_a_control_api_is_named_by_a_url(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["status", "--control", "nonsense"]) == Exit.REFUSED
    assert "--control: error[control-url]: nonsense is no URL" in capsys.readouterr().err


def test_a_folder_that_is_no_endpoints_repo_is_not_called_valid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["validate", str(tmp_path)]) == Exit.REFUSED
    assert "error[no-endpoints]" in capsys.readouterr().err


def test_findings_show_the_line_and_fail(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    traffic(repo, "{blue: 95}")
    code, text = run(capsys, "validate")
    assert code == Exit.REFUSED
    assert "endpoints/hello/endpoint.yml:2:1: error[traffic-sum]" in text
    assert "   2 | traffic: {blue: 95}" in text


@pytest.mark.parametrize("form", ["text", "json", "sarif", "github", "gitlab", "junit", "markdown"])
def test_every_format_names_the_finding(repo: Path, capsys: pytest.CaptureFixture[str], form: str) -> None:
    traffic(repo, "{blue: 95}")
    code, text = run(capsys, "validate", "--format", form)
    assert code == Exit.REFUSED
    assert "traffic-sum" in text


def test_an_unknown_gate_is_found_at_the_desk(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (repo / "endpoints/hello/rollout.yml").write_text("gates:\n  latency-p9x: {}\n")
    code, text = run(capsys, "validate")
    assert code == Exit.REFUSED
    assert "gate-unknown" in text


def test_what_was_not_pushed_is_planned(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (change,) = plans(capsys)
    plan = change["plan"]
    assert isinstance(plan, dict)
    assert [op["name"] for op in plan["ops"]] == ["build", "smoke", "deploy", "step-100", "finalize"]


def test_uncommitted_files_are_planned_too(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with git.Repo(repo) as opened:
        opened.git.push()
    assert plans(capsys) == []
    deployment(repo, "green")
    traffic(repo, "{blue: 90, green: 10}")
    (change,) = plans(capsys)
    plan = change["plan"]
    assert isinstance(plan, dict)
    names = [op["name"] for op in plan["ops"]]
    assert names == ["build", "smoke", "deploy", "mirror", "step-10", "step-50", "step-100", "finalize"]
    assert [gate["gate"] for gate in change["gates"]] == ["error-rate", "latency-p99", "mirror-diff"]  # type: ignore[attr-defined]


def test_files_that_git_does_not_have_are_planned_and_named(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deployment(repo, "green")
    traffic(repo, "{green: 100}")
    (repo / "endpoints/hello/model/weights.bin").write_text("1")
    (repo / "endpoints/elsewhere.txt").write_text("nobody reads this")
    with (repo / ".gitignore").open("a") as ignored:
        ignored.write("*.bin\n")
    deployed = repo / "endpoints/hello/deployments/green.yml"
    deployed.write_text(deployed.read_text().replace("../model/greeting.json", "../model"))
    assert main.run(["plan"]) == Exit.OK
    named = "endpoints/hello/model/weights.bin (in .gitignore), endpoints/hello/deployments/green.yml"
    assert capsys.readouterr().err == f"planned with files that git does not have; commit them too: {named}\n"
    with git.Repo(repo) as opened:
        opened.git.add("--all", "--force")
    assert main.run(["plan"]) == Exit.OK
    assert capsys.readouterr().err == ""
    assert main.run(["plan", "HEAD..HEAD"]) == Exit.OK
    assert capsys.readouterr().err == ""


def test_settings_alone_begin_another_attempt_where_git_still_asks_for_what_failed(
    repo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with git.Repo(repo) as opened:
        opened.git.push()
    (repo / "endpoints/hello/rollout.yml").write_text("soak: 9m\n")
    monkeypatch.setenv("HEADGATE_TOKEN", "t")
    for state, warns in (("RolledBack", True), ("Healthy", False)):
        one = EndpointStatus("hello", "", state, "OutOfSync", "c", 1, 1, "", (), None)
        system = SystemStatus("0", "repo", "main", "c", "c", "", (one,), ())
        with ControlStub() as control:
            control.scripted["/status"] = [(200, codec.to_data(system))]
            monkeypatch.setenv("HEADGATE_CONTROL", control.url)
            assert main.run(["plan"]) == Exit.OK
        said = capsys.readouterr()
        assert "in place: the process" in said.out
        assert ("begins another attempt" in said.err) is warns
    assert main.run(["plan"]) == Exit.OK
    assert capsys.readouterr().err == "", "a plan needs no controller"


def test_the_work_tree_and_its_commit_are_the_same_plan(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deployment(repo, "green")
    traffic(repo, "{green: 100}")
    (before,) = plans(capsys)
    commit(repo, "green")
    (after,) = plans(capsys, "origin/main..HEAD")
    assert before["plan"]["hash"] == after["plan"]["hash"]  # type: ignore[index]


def test_a_plan_looks_models_up_in_the_repos_own_catalogue(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (repo / "headgate.yml").open("a") as file:
        file.write("\ncatalogue: models\n")
    (repo / "models/greeting/3").mkdir(parents=True)
    shutil.copy(repo / "endpoints/hello/model/greeting.json", repo / "models/greeting/3")
    blue = repo / "endpoints/hello/deployments/blue.yml"
    head, _, tail = blue.read_text().partition("model:\n")
    blue.write_text(f"{head}model: azureml:greeting:3\n{tail.partition('greeting.json')[2].lstrip()}")
    (change,) = plans(capsys)
    assert change["findings"] == []
    commit(repo, "of the catalogue")
    (again,) = plans(capsys, "origin/main..HEAD")
    assert again["plan"]["hash"] == change["plan"]["hash"]  # type: ignore[index]


def test_a_plan_is_read_by_people(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deployment(repo, "green")
    traffic(repo, "{blue: 90, green: 10}")
    commit(repo, "green 10")
    code, text = run(capsys, "plan", "HEAD~1..HEAD", "--rate", "100")
    assert code == Exit.OK
    assert "100 % → blue@" in text
    assert "mirror    20 %     ≥ 10m  error-rate, latency-p99, mirror-diff" in text
    assert "at 1 % of 100 a second" in text, "10 % of the way to 10 %"


def test_a_plan_says_what_no_gate_looks_at(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with git.Repo(repo) as opened:
        opened.git.push()
    deployment(repo, "green")
    traffic(repo, "{green: 100}")
    assert "no gate looks at" not in run(capsys, "plan")[1]
    (repo / "endpoints/hello/rollout.yml").write_text("gates: {error-rate: {}, latency-p50: {}}\n")
    said = "no gate looks at what answers say: those of rollout.yml replace the default ones"
    assert f"note: {said}\n" in run(capsys, "plan")[1]
    assert f"- {said}\n" in run(capsys, "plan", "-o", "markdown")[1]
    assert plans(capsys)[0]["unseen"] == [said]


def test_run_settings_are_applied_in_place(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = repo / "endpoints/hello/deployments/blue.yml"
    file.write_text(file.read_text().replace("instance_count: 1", "instance_count: 3"))
    commit(repo, "three")
    (change,) = plans(capsys, "HEAD~1..HEAD")
    assert change["in_place"] == ["blue: run settings, instances 1 → 3"]
    assert change["plan"] is None


def test_a_removed_endpoint_is_said_to_serve_on(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(repo / "endpoints" / "hello")
    commit(repo, "gone")
    code, text = run(capsys, "plan", "HEAD~1..HEAD")
    assert (code, text) == (Exit.OK, "hello: removed; it serves on for removal_grace if it has traffic\n")


def test_a_refused_change_fails_the_plan(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    traffic(repo, "{blue: 95}")
    code, text = run(capsys, "plan")
    assert code == Exit.REFUSED
    assert "hello: refused, nothing changes" in text
    assert "traffic-sum" in text


@pytest.mark.parametrize("span", ["nowhere..HEAD", "HEAD..nowhere", "--upload-pack=x..HEAD", "a b..HEAD", "HEAD~99"])
def test_a_commit_that_is_not_there_is_not_found(repo: Path, span: str) -> None:
    assert main.run(["plan", "--", span]) == Exit.NOT_FOUND


def test_a_bare_repo_needs_two_commits(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with git.Repo(repo) as opened:
        opened.git.push()
    bare = str(repo.with_name("eps.git"))
    assert main.run(["plan", "--repo", bare]) == Exit.REFUSED
    assert len(plans(capsys, "--repo", bare, "HEAD~1..HEAD")) == 1


def test_markdown_is_a_table_for_a_review(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(capsys, "plan", "-o", "markdown")
    assert code == Exit.OK
    assert "| op | percent | soak | gates |" in text


def test_the_workflow_is_the_one_that_runs(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(capsys, "workflow", "hello")
    assert code == Exit.OK
    document = yaml.safe_load(text)
    assert document["kind"] == "Workflow"
    assert document["spec"]["onExit"] == "close"


def test_no_change_has_no_workflow(repo: Path) -> None:
    assert main.run(["workflow", "hello", "HEAD..HEAD"]) == Exit.NOT_FOUND
    assert main.run(["workflow", "nope"]) == Exit.NOT_FOUND
