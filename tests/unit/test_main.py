"""The command line's root: exit codes, laziness, options before and after the verb."""

from __future__ import annotations

import errno
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from headgate.findings import Finding, FindingsError, HeadgateError, Place
from headgate_console import main, options
from headgate_console.exits import MEANING, Exit

HEAVY = ("hera", "git", "kubernetes", "fastapi", "uvicorn", "yaml", "ruamel", "jsonschema", "httpx", "rich", "sklearn")


def raising(error: BaseException) -> click.Command:
    @click.command("broken", cls=options.Verb)
    def broken() -> None:
        raise error

    return broken


def run_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    monkeypatch.setattr(main.Root, "get_command", lambda *_: raising(error))
    return main.run(["broken"])


def finding(code: str) -> Finding:
    return Finding(code, "what", "why", "how", Place("here"))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        pytest.param(FindingsError(finding("traffic-sum")), Exit.REFUSED, id="a finding"),
        pytest.param(FindingsError(finding("unknown-endpoint")), Exit.NOT_FOUND, id="something is not there"),
        pytest.param(
            FindingsError(finding("not-found"), finding("traffic-sum")), Exit.REFUSED, id="not there, and more is wrong"
        ),
        pytest.param(HeadgateError("no room"), Exit.REFUSED, id="an error of ours"),
        pytest.param(click.UsageError("what?"), Exit.USAGE, id="usage"),
        pytest.param(KeyboardInterrupt(), Exit.INTERRUPTED, id="Ctrl-C"),
    ],
)
def test_every_failure_has_its_exit_code(monkeypatch: pytest.MonkeyPatch, error: BaseException, code: Exit) -> None:
    assert run_with(monkeypatch, error) == code


def test_a_finding_is_printed_with_why_and_fix_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_with(monkeypatch, FindingsError(finding("traffic-sum")))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "here: error[traffic-sum]: what\n  why: why\n  fix: how\n"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        pytest.param(OSError(errno.ENOSPC, "No space left on device", "/d/lock"), "make room", id="a full disk"),
        pytest.param(OSError(errno.EROFS, "Read-only file system", "/ro/d"), "can be written to", id="read-only"),
        pytest.param(shutil.Error([("a", "b", "[Errno 28] No space left: 'b'")]), "Errno 28", id="a copy of many"),
        pytest.param(OSError("no such luck"), "-v says where", id="of no number"),
    ],
)
def test_what_the_machine_refuses_is_a_finding_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: OSError, says: str
) -> None:
    assert run_with(monkeypatch, error) == Exit.REFUSED
    said = capsys.readouterr().err
    assert "error[machine-refuses]" in said
    assert says in said


def test_every_exit_code_says_what_it_means() -> None:
    assert set(MEANING) == set(Exit)
    assert {code.value for code in Exit} == {0, 1, 2, 3, 4, 5, 130}


def test_an_unknown_verb_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["statsu"]) == Exit.USAGE
    assert "No such command 'statsu'. Did you mean 'status'?" in capsys.readouterr().err
    assert main.run(["rollout", "abrot"]) == Exit.USAGE
    assert "Did you mean 'abort'?" in capsys.readouterr().err
    assert main.run(["zzz"]) == Exit.USAGE
    assert "Did you mean" not in capsys.readouterr().err


@pytest.mark.parametrize("argv", [[], ["rollout"], ["verdict"], ["gate"], ["keys"]])
def test_a_list_of_commands_cuts_no_sentence(
    argv: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main.run([*argv, "--help"]) == Exit.OK
    commands = capsys.readouterr().out.partition("Commands:\n")[2].splitlines()
    assert commands
    for line in commands:
        assert len(line) <= 80
        assert not line.endswith(("...", "…")), line
        assert line.count("`") % 2 == 0, line


@pytest.mark.parametrize("argv", [["-q", "version"], ["version", "-q"], ["--no-color", "version", "-v"]])
def test_common_options_are_understood_before_and_after_the_verb(argv: list[str]) -> None:
    assert main.run(argv) == Exit.OK


@pytest.mark.parametrize("argv", [["status"], ["version"], ["--help"], ["rollout", "--help"], ["down"]])
def test_a_quick_verb_imports_nothing_heavy(argv: list[str], tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from headgate_console import main\n"
        "main.run(sys.argv[1:])\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    asked = subprocess.run(
        [sys.executable, "-c", code, *argv],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert asked.stdout.splitlines()[-1] == "HEAVY []"


@pytest.mark.parametrize("program", ["headgate", "kubectl_headgate"])
def test_ctrl_c_while_modules_are_imported_prints_no_traceback(program: str, tmp_path: Path) -> None:
    for slow in ("click", "base64"):
        (tmp_path / f"{slow}.py").write_text("print('importing', flush=True)\nimport sys\nsys.stdin.read()\n")
    code = f"import headgate_console.start as start, sys; sys.path.insert(0, {str(tmp_path)!r}); start.{program}()"
    begun = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with begun:
        assert begun.stdout is not None
        assert begun.stdout.readline() == "importing\n"
        begun.send_signal(signal.SIGINT)
        _, said = begun.communicate()
    assert (begun.returncode, said) == (-signal.SIGINT, "")


def test_who_imports_the_commands_keeps_ctrl_c_to_itself() -> None:
    said = "import signal, headgate_console.main, headgate_console.plugin; print(signal.getsignal(signal.SIGINT))"
    asked = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert "default_int_handler" in asked.stdout


def test_a_closed_pipe_ends_quietly() -> None:
    shell = f"{sys.executable} -m headgate_console.main --help | head -1; exit ${{PIPESTATUS[0]}}"
    asked = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert "Traceback" not in asked.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_program(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["completion", shell]) == Exit.OK
    assert "_HEADGATE_COMPLETE" in capsys.readouterr().out
