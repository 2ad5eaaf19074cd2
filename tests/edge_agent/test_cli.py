"""The commands as a person meets them: output, exit codes, one line for every error, real signals."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge_agent import cli
from edge_agent.processes import process_limits
from edge_agent.sidecar import Sidecar, read_record
from edge_agent.status import sole_agent

REPOSITORY = Path(__file__).resolve().parents[2]
WAIT_SECONDS = 30


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command in this process, whose priority stays; give its exit code and what it printed."""
    monkeypatch.setattr(process_limits, "lower_priority", lambda: None)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["edge-agent", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    yield command
    root.handlers[:] = handlers
    root.setLevel(level)
    ours = logging.getLogger("edge_agent")
    ours.setLevel(logging.NOTSET)
    for handler in ours.handlers[:]:
        ours.removeHandler(handler)
        handler.close()


@pytest.fixture
def scope(tmp_path, micrograph_bytes):
    folder = tmp_path / "scope"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.dm3").write_bytes(micrograph_bytes)
    (folder / "sub" / "b.dm3").write_bytes(micrograph_bytes)
    return folder


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        pytest.param(["nope"], 2, "No such command 'nope'.", id="unknown command"),
        pytest.param(["classify", "--foo"], 2, "No such option: --foo", id="unknown option"),
        pytest.param(["classify"], 2, "Missing argument 'PATH", id="missing argument"),
        pytest.param(
            ["classify", "/nowhere"], 2, "/nowhere: there is no such file or folder", id="missing file"
        ),
        pytest.param(
            ["classify", __file__, "--model", "nope"],
            2,
            "nope: neither a folder nor a shipped model",
            id="no model",
        ),
        pytest.param(
            ["watch"], 2, "no folder to watch: name one, or set `folders` in", id="nothing to watch"
        ),
        pytest.param(
            ["watch", "x", "--config", "/none.toml"], 2, "/none.toml: cannot be read: No such", id="no config"
        ),
        pytest.param(["log"], 1, "there is no log ", id="no log"),
        pytest.param(["status"], 1, "no agent is running on the state folder", id="no agent"),
        pytest.param(
            ["check", "--model", "nope"], 1, "nope: neither a folder nor a shipped", id="nothing to check"
        ),
        pytest.param(
            ["models", "show", "nope"], 2, "nope: neither a folder nor a shipped", id="nothing to show"
        ),
        pytest.param(["simulate", "/x", "--rate", "0"], 2, "Invalid value for '--rate': ", id="no rate"),
        pytest.param(
            ["simulate", "/x", "--mode", "fast"], 2, "Invalid value for '--mode': ", id="no such mode"
        ),
        pytest.param(
            ["simulate", "/proc/none", "--files", "1"], 1, "/proc/none: No such file", id="no such place"
        ),
    ],
)
def test_an_error_is_one_line_on_stderr_and_its_exit_code(run, arguments, code, message):
    seen, out, err = run(*arguments)

    assert seen == code
    assert out == ""
    assert err.startswith(f"edge-agent: {message}")
    assert len(err.splitlines()) == 1
    assert "Traceback" not in err


@pytest.mark.parametrize("place", [0, 1, 2], ids=["first", "in the middle", "last"])
def test_verbose_shows_the_traceback_wherever_it_stands(run, place):
    arguments = ["classify", "/nowhere"]
    arguments.insert(place, "--verbose")

    code, _, err = run(*arguments)

    assert code == 2
    assert "Traceback" in err
    assert err.splitlines()[-1] == "edge-agent: /nowhere: there is no such file or folder"


def test_a_file_may_be_called_verbose(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    code, _, err = run("classify", "--", "--verbose")

    assert (code, err) == (2, f"edge-agent: {tmp_path}/--verbose: there is no such file or folder\n")


def test_a_fault_of_ours_is_one_line_too(run, tiny, scope, monkeypatch):
    monkeypatch.setattr("edge_agent.batch.gather", lambda *a, **k: 1 / 0)

    code, _, err = run("classify", scope)

    assert code == 1
    assert err == "edge-agent: unforeseen ZeroDivisionError: division by zero (--verbose shows where)\n"


def test_a_self_test_that_may_write_nowhere_says_what_to_name(run):
    code, out, err = run("selftest", "/proc")

    assert (code, out) == (1, "")
    assert err.splitlines()[0].startswith(
        "everything happens in /proc/scopewatch-selftest-to-be-deleted-...; if "
    )
    assert err.splitlines()[1].startswith("edge-agent: /proc/scopewatch-selftest-to-be-deleted-")
    assert err.splitlines()[1].endswith("name a folder that may be written to, for example where outputs go")


def test_help_names_every_command(run):
    code, out, _ = run("--help")

    assert code == 0
    for command in (
        "demo",
        "watch",
        "classify",
        "status",
        "check",
        "simulate",
        "models",
        "config",
        "doctor",
        "selftest",
        "support",
    ):
        assert f"  {command} " in out


def test_classify_writes_beside_the_files_and_says_what_it_found(run, tiny, scope):
    code, out, err = run("classify", scope, "--model", tiny)

    assert code == 0
    assert out.startswith(f"{scope}/a.dm3  ")
    assert sorted(path.name for path in scope.iterdir()) == [
        "a.dm3",
        "a.dm3.heatmap.png",
        "a.dm3.json",
        "sub",
    ]
    assert err.splitlines()[0].startswith("1 files: 1 classified (1 ungated: 1 ")
    assert err.splitlines()[1] == "1 folders inside were left out; --recursive enters them"


def test_classify_mirrors_below_output_and_prints_one_record_a_line(run, tiny, scope, tmp_path):
    code, out, _ = run(
        "classify",
        scope,
        "--recursive",
        "--json",
        "--no-heatmap",
        "--output",
        tmp_path / "o",
        "--model",
        tiny,
    )

    records = [Sidecar.model_validate_json(line) for line in out.splitlines()]
    written = [read_record(tmp_path / "o" / name) for name in ("a.dm3.json", "sub/b.dm3.json")]
    assert code == 0
    assert records == written
    assert list(scope.rglob("*.json")) == list((tmp_path / "o").rglob("*.png")) == []


def test_classify_goes_by_the_configuration_too(run, tiny, scope, tmp_path):
    (scope / "a.dm3").rename(scope / "a.ser")
    config = tmp_path / "agent.toml"
    config.write_text(
        f'model = "{tiny}"\ninclude = ["*.ser"]\nheatmap = false\n'
        '[instrument]\ncamera = "OneView"\npixel_size_nm.200000 = 0.21\n'
    )

    code, out, _ = run("classify", scope, "--config", config, "--json")

    record = Sidecar.model_validate_json(out)
    assert code == 0
    assert record.source.path == str(scope / "a.ser")
    assert record.micrograph.pixel_size_nm == (0.21, 0.21)
    assert record.agent.instrument.camera == "OneView"
    assert record.cam.heatmap is None


def test_classify_fails_when_a_file_is_unreadable_and_goes_on(run, tiny, scope, monkeypatch):
    (scope / "0.dm3").write_text("no micrograph")
    monkeypatch.setenv("SCOPEWATCH_MODEL", str(tiny))

    code, out, err = run("classify", scope)

    assert code == 1
    assert out.startswith(f"{scope}/0.dm3  UNREADABLE: ")
    assert len(out.splitlines()) == 2
    assert "1 unreadable" in err


@pytest.mark.skipif(os.name == "nt", reason="Windows counts UTF-16 units")
def test_a_file_without_a_record_is_told_on_stderr_with_json(run, tiny, tmp_path, micrograph_bytes):
    path = tmp_path / ("x" * 246 + ".dm3")
    path.write_bytes(micrograph_bytes)

    code, out, err = run("classify", path, "--json", "--model", tiny)

    assert (code, out) == (1, "")
    assert err.startswith(f"edge-agent: {path}: REFUSED: the name has no room for '.heatmap.png'")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_a_name_cannot_steer_the_terminal(run, tiny, tmp_path, micrograph_bytes):
    (tmp_path / "evil\x1b[2J\n\udcff.dm3").write_bytes(micrograph_bytes)

    code, out, _ = run("classify", tmp_path, "--model", tiny)

    assert code == 0
    assert out.startswith(f"{tmp_path}/evil\\x1b[2J\\n\\udcff.dm3  ")
    assert len(out.splitlines()) == 1


def test_include_takes_other_files_from_a_folder(run, tiny, scope):
    (scope / "a.dm3").rename(scope / "a.ser")

    code, out, _ = run("classify", scope, "--include", "*.SER", "--model", tiny)

    assert code == 0
    assert out.startswith(f"{scope}/a.ser  ")


@pytest.mark.parametrize(
    ("options", "name"),
    [
        pytest.param((), "grafana_board.json", id="board"),
        pytest.param(("--rules",), "prometheus_rules.yml", id="rules"),
    ],
)
def test_board_and_alert_rules_are_printed_as_they_are(run, options, name):
    code, out, err = run("config", "board", *options)

    assert (code, err) == (0, "")
    assert out == (REPOSITORY / "edge_agent" / "live_page" / name).read_text("utf-8")


def test_check_verifies_and_replays(run, tiny):
    code, out, _ = run("check", "--model", tiny)

    assert code == 0
    assert out.splitlines()[0] == f"{tiny}: tiny 1, every file as its manifest says"
    assert out.splitlines()[1].startswith("golden replay of ")
    assert " passed: at most " in out


def test_check_fails_for_a_damaged_bundle(run, tiny, tmp_path):
    damaged = tmp_path / "tiny-1"
    damaged.mkdir()
    for file in tiny.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    (damaged / "model.onnx").write_bytes(b"\0" + (tiny / "model.onnx").read_bytes()[1:])

    code, out, err = run("check", "--model", damaged)

    assert (code, out) == (1, "")
    assert "model.onnx: SHA-256 is" in err


def test_models_show_prints_the_manifest(run, tiny):
    code, out, err = run("models", "show", tiny)

    assert code == 0
    assert json.loads(out)["labels"] == ["faceted", "rod", "round"]
    assert err == f"{tiny}\n"


def test_models_list_names_what_is_shipped(run, tiny, monkeypatch):
    monkeypatch.setattr("edge_agent.model_names._model_roots", lambda: iter([tiny.parent]))
    assert run("models", "list")[:2] == (0, "tiny-1  faceted, rod, round  shipped  (current, default)\n")

    monkeypatch.setattr("edge_agent.model_names._model_roots", lambda: iter([]))
    assert run("models", "list")[0] == 1


@pytest.mark.parametrize(("option", "key"), [((), "folders"), (("--sidecar",), "prediction")])
def test_schemas_are_published(run, option, key):
    code, out, _ = run("config", "schema", *option)

    assert code == 0
    assert key in json.loads(out)["properties"]


def test_simulate_saves_and_says_what_it_drew(run, tmp_path):
    code, out, _ = run(
        "simulate", tmp_path / "s", "--files", "2", "--rate", "100", "--size", "64", "--mode", "rename"
    )

    assert code == 0
    assert len(out.splitlines()) == len(list((tmp_path / "s").glob("*.dm3"))) == 2
    assert all("  drawn " in line for line in out.splitlines())


def test_demo_runs_the_whole_way(run, tmp_path, tiny):
    code, out, _ = run(
        "demo",
        "--files",
        "2",
        "--rate",
        "50",
        "--size",
        "128",
        "--no-page",
        "--keep",
        tmp_path / "d",
        "--model",
        tiny,
    )

    assert code == 0
    assert "2 simulated files: 2 sidecars" in out


@contextmanager
def watching(*arguments, state):
    """Run `edge-agent watch` as its own process; give it with a function that waits for a line on stdout."""
    process = subprocess.Popen(
        [sys.executable, "-m", "edge_agent.cli", "watch", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "SCOPEWATCH_STATE": str(state)},
    )
    killer = threading.Timer(WAIT_SECONDS, process.kill)
    killer.start()
    try:
        yield process
    finally:
        killer.cancel()
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
        killer.join()


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_watch_classifies_until_a_signal_and_ends_cleanly(scope, tmp_path, tiny, number):
    with watching(scope, "--model", tiny, "--output", tmp_path / "out", state=tmp_path / "state") as process:
        lines = [process.stdout.readline() for _ in range(2)]
        process.send_signal(number)
        _, errors = process.communicate(timeout=WAIT_SECONDS)

    assert process.returncode == 0
    assert sorted(Path(line.split("  ")[1]).name for line in lines) == ["a.dm3", "b.dm3"]
    greeting, page, *end = errors.splitlines()
    assert (greeting, end) == (f"model tiny 1 watches {scope}", ["stopped"])
    assert page.startswith("page: ")
    assert "#token=" not in page
    assert read_record(tmp_path / "out" / "sub" / "b.dm3.json") is not None
    assert not list(scope.rglob("*.json"))


def test_status_tells_of_the_running_agent(run, scope, tmp_path, tiny, monkeypatch):
    monkeypatch.setenv("SCOPEWATCH_STATE", str(tmp_path / "state"))
    with watching(scope, tmp_path / "later", "--model", tiny, state=tmp_path / "state") as process:
        for _ in range(2):
            process.stdout.readline()
        for _ in range(50):
            code, out, _ = run("status", "--json")
            if code == 0 and json.loads(out)["waiting"] == 0 and json.loads(out)["done"]:
                break
            threading.Event().wait(0.2)
        human = run("status")

    numbers = json.loads(out)
    assert (numbers["seen"], numbers["done"], numbers["model"]["name"]) == (2, {"classified": 2}, "tiny")
    assert human[0] == 0
    assert "classified    2" in human[1]
    assert f"folder        {tmp_path / 'later'}  MISSING, events off: the folder is missing" in human[1]
    assert run("status")[0] == 1


def test_an_edit_of_the_configuration_is_taken_up_and_the_log_tells_it_all(run, scope, tmp_path, tiny):
    file = tmp_path / "agent.toml"
    text = f'folders = ["scope"]\nmodel = "{tiny}"\nstate = "state"\noutput = "out"\npage = {{ enabled = false }}\n'
    file.write_text(text)
    with watching("--config", file, state=tmp_path / "state") as process:
        for _ in range(2):
            process.stdout.readline()
        file.write_text(text + "no_such_key = 1\n")
        while "no_such_key" not in process.stderr.readline():
            pass
        for _ in range(100):
            shown = run("status", "--config", file)[1]
            if "EDIT REFUSED" in shown:
                break
            threading.Event().wait(0.1)
        file.write_text(text + "stalled_seconds = 77\n")
        while "is taken up" not in process.stderr.readline():
            pass
        process.terminate()
        process.communicate(timeout=WAIT_SECONDS)
    code, told, _ = run("log", "--config", file)
    raw = [json.loads(line) for line in run("log", "--json", "--config", file)[1].splitlines()]

    assert process.returncode == code == 0
    assert f"EDIT REFUSED  {file}:6: no_such_key: there is no such key" in shown
    assert f"config        {file}, in force since " in shown
    assert told.splitlines()[-1].endswith(" INFO    stopped")
    assert [line["event"] for line in raw if "event" in line] == [
        "worker", "started", "finding", "finding", "config refused",
        "changing", "worker", "started", "config taken up", "stopped",
    ]  # fmt: skip
    assert {line["file"] for line in raw if line.get("event") == "finding"} == {
        str(scope / "a.dm3"),
        str(scope / "sub" / "b.dm3"),
    }


def test_a_second_watch_exits_with_3(run, scope, tmp_path, tiny, monkeypatch):
    monkeypatch.setenv("SCOPEWATCH_STATE", str(tmp_path / "state"))
    with sole_agent(tmp_path / "state", []):
        code, out, err = run("watch", scope, "--model", tiny)

    assert (code, out) == (3, "")
    assert err.startswith(
        f"edge-agent: another agent already holds the state folder {tmp_path / 'state'}; stop it"
    )


def test_watch_takes_its_folders_from_the_configuration_and_refuses_a_bad_model(run, tmp_path):
    (tmp_path / "agent.toml").write_text('folders = ["scope"]\nmodel = "nope"\nstate = "state"\n')

    code, _, err = run("watch", "--config", tmp_path / "agent.toml")

    assert code == 2
    assert err.splitlines()[0] == f"{tmp_path}/scope: is not there yet; watching for it to appear"
    assert err.splitlines()[-1].startswith("edge-agent: nope: neither a folder nor a shipped model")
    assert not (tmp_path / "scope").exists()


@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
def test_ctrl_c_ends_a_command_with_one_line(tmp_path):
    command = ["simulate", str(tmp_path / "scope"), "--files", "1000", "--size", "64", "--rate", "20"]
    with subprocess.Popen(
        [sys.executable, "-m", "edge_agent.cli", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"},
        # A test runner in the background of a shell may ignore the signal, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        try:
            assert process.stdout is not None
            assert "drawn" in process.stdout.readline()
            errors = interrupted(process)
        finally:
            process.kill()
    assert process.returncode == 130
    assert errors == "edge-agent: interrupted; what was finished stays\n"


def interrupted(process):
    """Press Ctrl-C until the process ends, as a person does: C code that clears errors can swallow one."""
    for _ in range(WAIT_SECONDS // 2):
        process.send_signal(signal.SIGINT)
        try:
            return process.communicate(timeout=2)[1]
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError("Ctrl-C does not end it")
