"""The program with streams that are closed, full or narrow, with signals, and with the words a person types."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

import clip_es
from clip_es.pipelines import cli
from clip_es.pipelines.cli import main
from clip_es.pipelines.completion import parser_of

PROGRAM = (sys.executable, "-m", "clip_es")


def shell(line: str, **environment: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of the program in a line of bash."""
    code = f'clip_es() {{ "{sys.executable}" -m clip_es "$@"; }}; {line}'
    ran = subprocess.run(
        ["bash", "-c", code], capture_output=True, env={**os.environ, **environment}, stdin=subprocess.DEVNULL
    )
    return ran.returncode, ran.stdout.decode(), ran.stderr.decode()


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("clip_es --help >&-", 0),
        ("clip_es --version >&-", 0),
        ("clip_es --version >/dev/full", 2),
        ("clip_es --help >/dev/full", 2),
        ("clip_es nothing 2>&-", 2),
        ("clip_es nothing 2>/dev/full", 2),
        ("clip_es nothing --json >&-", 2),
        ("clip_es --version --json >/dev/full", 2),
        ("clip_es --help <&- >&- 2>&-", 0),
        ("clip_es --help | true; exit ${PIPESTATUS[0]}", 1),
        ("clip_es --json | true; exit ${PIPESTATUS[0]}", 1),
    ],
)
def test_streams_that_fail_are_no_fault_of_the_package(line, code):
    ended, _, err = shell(line)
    assert ended == code
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "environment",
    [{"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
)
def test_an_encoding_that_lacks_letters_gets_escapes(environment):
    code, out, err = shell("clip_es mäsks --json", **environment)
    assert code == 2
    assert json.loads(out)["command"] in ("mäsks", "m\udcc3\udca4sks"), "as the locale lets Python read it"
    assert "there is no command" in err


@pytest.mark.parametrize(
    "columns",
    ["1", "20", "80", "120", "nonsense"],
)
def test_the_list_of_commands_fits_any_terminal(columns):
    code, out, _ = shell("clip_es --help", COLUMNS=columns, TERM="dumb", NO_COLOR="1")
    assert code == 0
    assert max(map(len, out.splitlines())) <= (int(columns) if columns.isdigit() else 80)


@pytest.mark.parametrize("line", ["--json", "--version --json", "nothing --json", "masks --json", "help --json"])
def test_with_json_standard_output_is_one_line_for_whatever_is_asked(line, capfd):
    code = main(line.split())
    told = json.loads(capfd.readouterr().out)
    assert told["exit_code"] == code
    assert told.get("version") == (clip_es.__version__ if "--version" in line else None)


def test_other_processes_do_not_print_into_the_line():
    code = (
        "import os, subprocess, sys; from clip_es.pipelines import cli\n"
        "def loud(args):\n"
        "    print('python'); subprocess.run(['echo', 'a process']); os.write(1, b'a library'); return None, 0\n"
        "cli._run = loud; sys.argv = ['clip-es', 'masks', '--json']; sys.exit(cli.program())"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0
    assert json.loads(ran.stdout)["command"] == "masks"
    assert ran.stdout.count("\n") == 1
    assert {"python", "a process"} < set(ran.stderr.splitlines())


def test_a_fault_is_a_line_of_json_too(monkeypatch, capsys):
    def broken(_):
        raise ZeroDivisionError("nothing is divided by 0")

    monkeypatch.setattr(cli, "_run", broken)
    assert main(["masks", "--json"]) == 3
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert (told["exit_code"], told["error"]["kind"]) == (3, "ZeroDivisionError")
    assert "fault of clip-es" in captured.err


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_still_loads_is_told_as_well(sent):
    code = (
        "import os, signal, time; from clip_es.pipelines import cli\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def slow(args): print('begun', flush=True); time.sleep(60)\n"
        "cli._run = slow; raise SystemExit(cli.program())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "masks", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "begun\n"
    process.send_signal(sent)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert json.loads(out)["exit_code"] == 130
    assert "the same call continues" in err


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("--verison", "there is no flag --verison without a command. Nearest: '--version'"),
        ("evalute runs/x", "Did you mean clip-es evaluate?"),
        ("traim", "Did you mean clip-es train?"),
        ("suggest", "Did you mean clip-es prompts suggest?"),
        ("evaluate --undecidd miss RUN", "there is no flag --undecidd. Nearest: '--undecided'"),
        ("masks folder --imgaes p --out=run", "there is no flag --imgaes. Nearest: '--images'"),
        ("masks folder --image.max_megapixel=3", "there is no flag --image.max_megapixel. Nearest"),
    ],
)
def test_a_slip_of_the_finger_is_answered_with_what_was_meant(typed, told, capsys):
    assert main(typed.split()) == 2
    captured = capsys.readouterr()
    assert told in captured.err
    assert captured.out == ""


def test_flags_that_cannot_be_read_say_why_in_the_line(capsys):
    assert main(["evaluate", "RUN", "--truth", "T", "--undecided", "mis", "--json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert told["command"] == "evaluate"
    assert "'mis'" in told["error"]["found"]


def test_help_and_version_are_words_as_well(capsys):
    assert main(["version"]) == 0
    assert main(["help"]) == 0
    assert main(["help", "shards"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"clip-es {clip_es.__version__}\n")
    assert "clip-es shards verify" in out
    with pytest.raises(SystemExit):
        main(["help", "evaluate"])
    assert "usage: clip-es evaluate" in capsys.readouterr().out


def test_the_list_of_commands_does_not_load_torch():
    code = "import sys; from clip_es.pipelines.cli import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    for words in (["--help"], ["--version", "--json"], ["masks", "--quiet", "--help"]):
        assert subprocess.run([sys.executable, "-c", code, *words], stdout=subprocess.DEVNULL).returncode == 0


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("name", ["masks folder", "evaluate", "restore", "calibrate", "completion", "shards merge"])
def test_help_fits_the_terminal(name, columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit):
        main([*name.split(), "--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= columns


@pytest.mark.parametrize("name", ["masks folder", "train", "extend"])
def test_help_has_whole_paragraphs_where_the_source_has_lines(name):
    for action in parser_of(name)._actions:
        lines = (action.help or "").replace("\n\n", " ").split("\n")
        assert len(lines) == 1, f"{action.option_strings} breaks after {lines[0]!r}"
