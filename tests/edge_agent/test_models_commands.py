"""`models ...`, `check` and `classify` as a person types them: what is printed, and with which exit code."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from vouched_bundles import STRANGER, TRUSTED, edit, plain_bundle, put, signed_bundle

from edge_agent import cli, model_names
from edge_agent.config import STATE_VARIABLE
from edge_agent.processes import process_limits
from edge_agent.sidecar import read_record

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run a command in this process; exit code, stdout, stderr."""
    handlers = logging.getLogger().handlers[:]
    monkeypatch.setattr(process_limits, "lower_priority", lambda: None)
    monkeypatch.setattr(process_limits, "limit_memory", lambda mib: None)

    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["edge-agent", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    yield command
    logging.getLogger().handlers[:] = handlers


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture(autouse=True)
def shipped(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """tiny-1 comes with the installation."""
    monkeypatch.setattr(model_names, "_model_roots", lambda: iter([tiny.parent]))


@pytest.fixture
def config(tmp_path: Path, state: Path) -> Path:
    """A configuration that trusts one key."""
    file = tmp_path / "agent.toml"
    file.write_text(f'trusted_keys = ["{TRUSTED[0]}"]\nstate = "{state}"\n')
    return file


def test_from_a_bundle_to_the_current_model_and_back(run, state: Path, tmp_path: Path, config: Path):
    options = ("--config", config)
    bundle = signed_bundle(tmp_path / "new", "2", seed=2)
    assert run("models", "add", bundle, *options) == (
        0,
        "tiny-2: added, signed by 56475aa75463474c; golden replay of 3 cases off by at most 0.0e+00, "
        "1e-03 allowed\n",
        "next: edge-agent models use tiny-2\n",
    )
    assert run("models", "use", "tiny-2", *options) == (
        0,
        "current: tiny 2 (signed by 56475aa75463474c); a running agent takes it up by itself\n",
        "",
    )
    assert run("models", "list", *options)[1] == (
        "tiny-1  faceted, rod, round  shipped  (default)\n"
        "tiny-2  faceted, rod, round  signed by 56475aa75463474c  (current)\n"
    )
    code, out, _ = run("check", *options)
    assert (code, out.splitlines()[0]) == (
        0,
        f"{state}/models/bundles/tiny-2: tiny 2, every file as its manifest says, signed by 56475aa75463474c",
    )
    assert run("models", "remove", "tiny-2", *options) == (
        2,
        "",
        "edge-agent: tiny-2 is the current model; use another one first, or roll back\n",
    )
    assert run("models", "rollback", *options)[1] == (
        "current: tiny 1 (shipped); a running agent takes it up by itself\n"
    )
    assert run("models", "rollback", *options) == (
        2,
        "",
        "edge-agent: there is no earlier model to go back to\n",
    )
    assert run("models", "remove", "tiny-2", *options) == (0, "tiny-2: removed\n", "")
    assert list((state / "models" / "bundles").iterdir()) == []


def test_the_list_for_programs(run, state: Path, tmp_path: Path):
    run("models", "add", plain_bundle(tmp_path / "new", "2"))
    run("models", "use", "tiny")

    code, out, err = run("models", "list", "--json")

    listed = json.loads(out)
    assert (code, err, listed["schema"], listed["note"]) == (0, "", "scopewatch.models/1", None)
    one, two = listed["models"]
    assert (one["name"], one["version"], one["origin"], one["current"], one["default"]) == (
        "tiny", "1", "shipped", False, True,
    )  # fmt: skip
    assert (two["version"], two["origin"], two["current"], two["signed_by"], two["refused"]) == (
        "2", "store", True, None, None,
    )  # fmt: skip
    assert two["replay"]["cases"] == 3


def test_a_refused_model_is_listed_with_its_reason(run, state: Path, tmp_path: Path):
    run("models", "add", plain_bundle(tmp_path / "new", "2"))
    run("models", "use", "tiny-2")
    (state / "models" / "bundles" / "tiny-2" / "model.onnx").write_bytes(b"x")

    code, _, err = run("models", "use", "tiny-1")
    assert (code, "older than 2" in err) == (2, True)
    code, out, _ = run("check")
    assert (code, out) == (1, "")
    assert run("models", "use", "tiny-2")[0] == 2

    code, out, err = run("models", "list")
    assert out.splitlines()[0] == "tiny-1  faceted, rod, round  shipped  (current, default)"
    assert "tiny-2  faceted, rod, round  unsigned  REFUSED 20" in out
    assert f"UTC: {state}/models/bundles/tiny-2/model.onnx: SHA-256 is " in out
    assert err == "tiny-2 was refused\n"
    code, _, err = run("models", "show", "tiny-2")
    assert code == 2
    assert err.startswith("refused since 20")


@pytest.mark.parametrize(
    ("make", "code", "told"),
    [
        pytest.param(
            lambda folder: plain_bundle(folder, "2"),
            2,
            "it is not signed; use a model signed by one of the 1 trusted_keys, or list its key",
            id="unsigned",
        ),
        pytest.param(
            lambda folder: signed_bundle(folder, "2", key=STRANGER),
            2,
            "which is not trusted here",
            id="a stranger",
        ),
        pytest.param(
            lambda folder: edit(signed_bundle(folder, "2"), lambda manifest: manifest.update(seed=5)),
            2,
            "the manifest was changed after it",
            id="tampered with",
        ),
        pytest.param(
            lambda folder: signed_bundle(folder, "0.9"), 2, "tiny 0.9: older than 1, which was", id="older"
        ),
        pytest.param(lambda folder: None, 2, "there is no such bundle", id="nothing"),
    ],
)
def test_what_is_not_taken_is_told_in_one_line(
    run, config: Path, tmp_path: Path, state: Path, make, code, told
):
    make(tmp_path / "new")
    seen, out, err = run("models", "add", tmp_path / "new", "--config", config)
    assert (seen, out) == (code, "")
    assert told in err
    assert len(err.splitlines()) == 1


def test_what_the_configuration_asks_for_goes_before_and_that_is_said(
    run, config: Path, tmp_path: Path, state: Path
):
    config.write_text(config.read_text() + 'model = "tiny-1"\n')
    run("models", "add", signed_bundle(tmp_path / "new", "2"), "--config", config)
    assert run("models", "use", "tiny-2", "--config", config)[2] == (
        "the configuration asks for tiny-1, which goes before; take `model` out of it\n"
    )
    assert run("models", "list", "--config", config)[1].splitlines()[0].endswith("(current, default)")


def test_classify_uses_the_current_model_and_the_last_good_one_where_it_was_changed(
    run, state: Path, tmp_path: Path, micrograph_bytes: bytes
):
    (tmp_path / "a.dm3").write_bytes(micrograph_bytes)
    run("models", "add", plain_bundle(tmp_path / "new", "2", seed=2))
    run("models", "use", "tiny-2")

    assert run("classify", tmp_path / "a.dm3")[0] == 0
    assert read_record(tmp_path / "a.dm3.json").model.version == "2"

    (state / "models" / "bundles" / "tiny-2" / "golden.npz").write_bytes(b"x")
    code, _, err = run("classify", tmp_path / "a.dm3")
    assert code == 0
    assert "tiny-2 was refused; tiny 1 answers\n" in err
    assert read_record(tmp_path / "a.dm3.json").model.version == "1"


def test_a_damaged_store_is_said_and_the_shipped_model_answers(run, state: Path, tmp_path: Path):
    (state / "models").mkdir(parents=True)
    (state / "models" / "store.json").write_text("{")
    code, out, err = run("check")
    assert (code, "tiny 1, every file" in out) == (0, True)
    assert "store.json: is damaged; add the models again; the shipped model answers" in err
    code, out, err = run("models", "list")
    assert (code, "was the model store and is damaged; add the models again" in err) == (0, True)


def test_a_state_folder_that_cannot_be_written_is_told(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "file"))
    code, out, err = run("models", "add", plain_bundle(tmp_path / "new", "2"))
    assert (code, out) == (1, "")
    assert err == f"edge-agent: {tmp_path}/file/models: Not a directory\n"


def test_a_name_that_nobody_knows(run, state: Path):
    assert run("models", "use", "big") == (
        2,
        "",
        "edge-agent: big: there is no such model (there are: tiny-1)\n",
    )
    code, _, err = run("models", "remove", "big")
    assert (code, err) == (2, f"edge-agent: big: is not in the store {state}/models\n")


@pytest.mark.skipif(sys.platform != "linux", reason="as Linux limits memory")
@pytest.mark.parametrize("command", ["add", "use", "rollback"])
def test_a_model_that_is_not_known_yet_is_tried_within_the_workers_limits(
    run, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
):
    plain_bundle(tmp_path / "new", "2")
    if command != "add":
        run("models", "add", tmp_path / "new")
    if command == "rollback":
        run("models", "use", "tiny-2")
    limits: list[object] = []
    monkeypatch.setattr(process_limits, "lower_priority", lambda: limits.append("low"))
    monkeypatch.setattr(process_limits, "limit_memory", limits.append)
    arguments = {"add": (tmp_path / "new",), "use": ("tiny-2",), "rollback": ()}[command]

    assert run("models", command, *arguments)[0] == 0
    assert limits == ["low", 4096]


@pytest.mark.skipif(sys.platform != "linux", reason="as Linux limits memory")
def test_a_model_that_wants_more_memory_than_it_may_have_is_refused(state: Path, tmp_path: Path):
    bundle = tmp_path / "bomb"
    plain_bundle(bundle, "2")
    model = onnx.load_from_string((bundle / "model.onnx").read_bytes())
    size = numpy_helper.from_array(np.array([1, 1, 60_000, 60_000]), "size")
    model.graph.initializer.append(size)
    model.graph.node.insert(0, helper.make_node("Expand", ["one", "size"], ["bomb"]))
    model.graph.initializer.append(numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "one"))
    model.graph.node.append(helper.make_node("ReduceMax", ["bomb"], ["peak"], keepdims=0))
    model.graph.node.append(helper.make_node("Add", ["cam", "peak"], ["more"]))
    model.graph.output.append(helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, None))
    put(bundle, "model.onnx", model.SerializeToString())
    config = tmp_path / "agent.toml"
    config.write_text(f'state = "{state}"\nmemory_limit_mib = 2048\n')

    done = subprocess.run(
        [sys.executable, "-m", "edge_agent.cli", "models", "add", str(bundle), "--config", str(config)],
        capture_output=True, text=True, timeout=60, env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip

    assert done.returncode == 2
    told = [
        line for line in done.stderr.splitlines() if line.startswith("edge-agent: ")
    ]  # beside ONNX Runtime's
    assert len(told) == 1
    assert f"{bundle}: ONNX Runtime cannot use the model (" in told[0]
    assert "Failed to allocate memory" in told[0]
    assert list((state / "models").rglob("bundles/*")) == []


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("command", [("add", "b"), ("use", "tiny-2"), ("rollback",), ("remove", "tiny-2")])
def test_root_does_not_write_into_the_folder_of_a_services_account(
    run, state: Path, command: tuple[str, ...]
):
    state.mkdir()
    os.chown(state, 65534, 65534)
    code, out, err = run("models", *command)
    assert (code, out) == (2, "")
    assert err.startswith(
        f"edge-agent: {state}: belongs to nobody; run this as that account: sudo -u nobody "
    )
    assert list(state.iterdir()) == []
