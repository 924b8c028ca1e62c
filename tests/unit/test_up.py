"""Where `headgate up` runs and how it waits: defaults, refusals, back-off. No process is started here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import git
import pytest

from headgate.findings import FindingsError
from headgate_console import door, ground
from headgate_console.supervisor import GIVE_UP_AFTER, LONGEST_DELAY_S, delay_s, size, tail, trim


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEADGATE_DATA", raising=False)


def work_tree(tmp_path: Path) -> Path:
    git.Repo.init(tmp_path / "eps").close()
    return tmp_path / "eps"


def settle(repo: str | None = None, data: str | None = None, port: int | None = None) -> ground.Ground:
    return ground.settle(repo, None, data, "127.0.0.1", port, 2)


def test_the_data_folder_lies_in_the_work_tree(tmp_path: Path) -> None:
    repo = work_tree(tmp_path)
    assert settle(str(repo)) == ground.Ground(str(repo), "", repo / ".headgate", "127.0.0.1", 8400, 2)


def test_the_data_folder_of_a_bare_repo_or_a_url_lies_here(tmp_path: Path) -> None:
    git.Repo.init(tmp_path / "eps.git", bare=True).close()
    assert settle(str(tmp_path / "eps.git")).data == tmp_path / ".headgate"
    assert settle("https://example.org/eps.git").data == tmp_path / ".headgate"


def test_the_environment_names_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADGATE_DATA", str(tmp_path / "there"))
    assert settle("git@example.org:eps.git").data == tmp_path / "there"


def test_what_was_said_last_time_is_remembered(tmp_path: Path) -> None:
    folder = tmp_path / ".headgate"
    folder.mkdir()
    (folder / "up.json").write_text(json.dumps({"repo": "ssh://git@example.org/eps", "branch": "live", "port": 9100}))
    again = settle()
    assert (again.repo, again.branch, again.port) == ("ssh://git@example.org/eps", "live", 9100)
    assert settle(port=0).port == 0


def test_the_data_path_of_last_time_is_kept_unless_another_is_named(tmp_path: Path) -> None:
    folder = tmp_path / ".headgate"
    folder.mkdir()
    repo = "https://example.org/eps"
    assert settle(repo).dataplane == "builtin"
    (folder / "up.json").write_text(json.dumps({"dataplane": "envoy"}))
    assert settle(repo).dataplane == "envoy"
    assert ground.settle(repo, None, None, "127.0.0.1", None, 2, "asgi").dataplane == "asgi"
    (folder / "up.json").write_text(json.dumps({"dataplane": "nginx"}))
    assert settle(repo).dataplane == "builtin", "one of a version that knew more"


def test_an_unreadable_memory_is_no_memory(tmp_path: Path) -> None:
    folder = tmp_path / ".headgate"
    folder.mkdir()
    (folder / "up.json").write_text("[1")
    assert settle("https://example.org/eps").port == 8400


def test_a_folder_that_is_no_repo_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FindingsError, match=r"no-repo.*(?s:.*)headgate init"):
        settle(str(tmp_path))


def test_a_branch_that_is_not_there_is_refused_before_it_is_remembered(tmp_path: Path) -> None:
    repo = work_tree(tmp_path)
    ground.settle(str(repo), "main", None, "127.0.0.1", None, 2)  # an empty repo: the first commit makes it
    with git.Repo(repo) as opened:
        opened.git.checkout("-q", "-b", "main")
        opened.index.commit("first")
    assert ground.settle(str(repo), "main", None, "127.0.0.1", None, 2).branch == "main"
    with pytest.raises(FindingsError, match=r"repo-no-branch(?s:.*)did you mean main"):
        ground.settle(str(repo), "mian", None, "127.0.0.1", None, 2)
    assert ground.settle("https://example.org/eps", "mian", None, "127.0.0.1", None, 2).branch == "mian"


def test_a_password_in_the_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(FindingsError, match="secret-in-url") as caught:
        settle("https://bot:hunter2@example.org/eps.git")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_loopback_needs_no_permission(host: str) -> None:
    ground.check_host(host, insecure=False)


def test_plain_http_for_others_must_be_asked_for() -> None:
    with pytest.raises(FindingsError, match="plain-http"):
        ground.check_host("0.0.0.0", insecure=False)
    ground.check_host("0.0.0.0", insecure=True)


def test_tls_needs_both_files_and_then_any_host_is_fine(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("c")
    for cert, key in ((tmp_path / "c", ""), ("", tmp_path / "c"), (tmp_path / "c", tmp_path / "no")):
        with pytest.raises(FindingsError, match="tls-files"):
            ground.check_host("127.0.0.1", insecure=True, tls_cert=str(cert), tls_key=str(key))
    ground.check_host("0.0.0.0", insecure=False, tls_cert=str(tmp_path / "c"), tls_key=str(tmp_path / "c"))


def on(host: str) -> ground.Ground:
    return ground.Ground("repo", "main", Path("data"), host, 80, 1)


@pytest.mark.parametrize(("host", "url"), [("127.0.0.1", "http://127.0.0.1:80"), ("::1", "http://[::1]:80")])
def test_urls_name_the_host_callers_use(host: str, url: str) -> None:
    assert door.url_of(on(host), 80) == url
    secure = replace(on(host), tls_cert="/c", tls_key="/k")
    assert door.url_of(secure, 80) == url.replace("http", "https")


def test_an_address_nobody_can_call_is_not_told_to_callers() -> None:
    assert "0.0.0.0" not in door.url_of(on("0.0.0.0"), 80)


def test_the_first_death_is_answered_at_once_then_with_more_and_more_patience() -> None:
    waits = [delay_s(deaths) for deaths in range(1, 12)]
    assert waits[:4] == [0.0, 0.2, 0.4, 0.8]
    assert waits == sorted(waits)
    assert max(waits) == LONGEST_DELAY_S
    assert sum(waits[:GIVE_UP_AFTER]) < 10, "a service that cannot start is said to be broken soon"


def test_a_tail_is_the_last_lines_however_long_the_log(tmp_path: Path) -> None:
    log = tmp_path / "stderr"
    log.write_text("".join(f"line {n}\n" for n in range(100_000)))
    shown = tail(log, 2)
    assert shown == "    line 99998\n    line 99999"
    assert tail(tmp_path / "none") == "    (no log)"


def test_a_tail_leaves_out_what_was_said_before(tmp_path: Path) -> None:
    log = tmp_path / "stderr"
    assert size(log) == 0
    log.write_text("of last time\n")
    before = size(log)
    assert tail(log, after=before) == "    (the log is empty)"
    log.write_text("of last time\nof now\n")
    assert tail(log, after=before) == "    of now"
    log.write_text("trimmed\n")
    assert tail(log, after=before) == "    trimmed"


def test_a_long_log_starts_again_and_its_writer_goes_on(tmp_path: Path) -> None:
    with (tmp_path / "stderr").open("ab", buffering=0) as writer:
        writer.write(b"x" * 2_000)
        trim([tmp_path], limit=1_000)
        writer.write(b"after\n")
        trim([tmp_path], limit=1_000)
    assert (tmp_path / "stderr").read_bytes() == b"after\n"
    assert (tmp_path / "stderr.1").stat().st_size == 2_000
