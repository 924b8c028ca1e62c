"""What a controller is started with: on one machine it makes its own token, in a pod it is given everything."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from headgate.findings import FindingsError
from headgate_controllers import options
from headgate_controllers.options import Options, parse
from headgate_kit.layout import DataFolder


def given(folder: Path, **changes: object) -> Options:
    data = DataFolder(folder / "data")
    data.prepare()
    return Options(data, "repo", **changes)  # type: ignore[arg-type]


def test_a_token_of_our_own_is_made_once_and_closed_to_others(tmp_path: Path) -> None:
    asked = given(tmp_path)
    made = options.token(asked)
    assert len(made) > 40
    assert options.token(asked) == made
    assert stat.S_IMODE(asked.data.token.stat().st_mode) == 0o600


def test_a_token_from_a_file_is_used_as_it_is_and_not_copied(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("from-a-secret\n")
    asked = given(tmp_path, token_file=file)
    assert options.token(asked) == "from-a-secret"
    assert not asked.data.token.exists()


@pytest.mark.parametrize("content", [None, " \n"], ids=["missing", "empty"])
def test_a_token_file_without_a_token_is_a_finding(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
    with pytest.raises(FindingsError) as caught:
        options.token(given(tmp_path, token_file=file))
    assert caught.value.findings[0].code == "token-file"


def test_a_restart_listens_on_the_port_of_the_last_start(tmp_path: Path) -> None:
    asked = given(tmp_path)
    with options.bind(asked) as first:
        assert first.getsockname()[0] == "127.0.0.1"
        url = options.announce(asked, first)
    assert json.loads(asked.data.control.read_text())["url"] == url
    with options.bind(asked) as second:
        assert options.announce(asked, second) == url


def test_listening_everywhere_is_announced_on_loopback_to_who_shares_the_data_folder(tmp_path: Path) -> None:
    asked = given(tmp_path, listen="0.0.0.0:0")
    # 0 is refused on the command line, for nobody would know it; here it finds a free port.
    with options.bind(asked) as listening:
        assert options.announce(asked, listening) == f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_a_port_that_is_taken_is_a_finding(tmp_path: Path) -> None:
    with options.bind(given(tmp_path)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(FindingsError) as caught:
            options.bind(given(tmp_path, listen=f"127.0.0.1:{port}"))
    assert caught.value.findings[0].code == "listen"


def test_an_op_in_a_pod_is_told_a_url_and_nothing_of_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADGATE_REGISTRY", "registry.example/team")
    monkeypatch.setenv("HEADGATE_REPO", "https://ada:secret@example.org/repo")
    found = options.op_environment(given(tmp_path, control_url="http://headgate-controller.ml:7070"), "op_1")
    assert found == {
        "HEADGATE_CONTROL": "http://headgate-controller.ml:7070",
        "HEADGATE_TOKEN": "op_1",
        "HEADGATE_REGISTRY": "registry.example/team",
    }


@pytest.mark.parametrize("name", ["UV_DEFAULT_INDEX", "UV_INDEX"])
def test_a_build_is_told_no_password(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "https://one.example/simple https://ada:hunter2@two.example/simple")
    with pytest.raises(FindingsError) as caught:
        options.op_environment(given(tmp_path), "op_1")
    assert [finding.code for finding in caught.value.findings] == ["secret-in-url"]
    assert "hunter2" not in str(caught.value)


def test_an_op_on_this_machine_reads_the_data_folder(tmp_path: Path) -> None:
    asked = given(tmp_path)
    found = options.op_environment(asked, "op_1")
    assert found["HEADGATE_DATA"] == str(asked.data.root)
    assert "HEADGATE_CONTROL" not in found


@pytest.mark.parametrize(
    "argv",
    [
        ["--data", "d"],
        ["--data", "d", "--repo", "r", "--listen", "7070x"],
        ["--data", "d", "--repo", "r", "--listen", "0.0.0.0:70000"],
        ["--data", "d", "--repo", "r", "--token-file", "f", "--token-secret", "s"],
    ],
    ids=["no repo", "no port", "no such port", "two tokens"],
)
def test_a_command_line_that_makes_no_sense_is_a_usage_error(
    argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HEADGATE_REPO", raising=False)
    with pytest.raises(SystemExit) as caught:
        parse(argv, "what it is")
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_the_router_is_where_we_are_told_or_where_the_data_folder_says(tmp_path: Path) -> None:
    asked = given(tmp_path)
    assert options.router_url(asked) == ""
    asked.data.router.write_text(json.dumps({"url": "http://127.0.0.1:8080"}))
    assert options.router_url(asked) == "http://127.0.0.1:8080"
    assert options.router_url(given(tmp_path, router_url="https://models.example.org")) == "https://models.example.org"
