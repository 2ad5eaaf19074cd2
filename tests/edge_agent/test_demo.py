"""The demo is the real agent on simulated files, and its verdict is what stands on the disk."""

from __future__ import annotations

import pytest

from edge_agent import demo as demo_module
from edge_agent.demo import DemoPlan, run_demo
from edge_agent.supervisor import ModelRefused


@pytest.fixture
def plan(tmp_path, tiny):
    return DemoPlan(files=6, rate_hz=20, size_px=128, folder=tmp_path / "kept", model=str(tiny))


def test_every_file_gets_its_outputs_and_its_line(plan, capsys):
    assert run_demo(plan)

    saved = sorted(plan.folder.glob("*.dm3"))
    lines = capsys.readouterr().out.splitlines()
    assert len(saved) == 6
    assert all(path.with_name(path.name + ".json").is_file() for path in saved)
    assert lines[0] == f"The pictures are simulated. Model tiny 1 watches {plan.folder}"
    told = [line for line in lines if " -> " in line]
    assert sorted(line.split(" drawn ")[0].strip() for line in told) == [path.name for path in saved]
    assert lines[-1] == f"heatmaps: {plan.folder}/*.dm3.heatmap.png"
    classified = sum(" -> not an image" not in line for line in told)
    assert f"6 simulated files: 6 sidecars, {classified} classified, {classified} heatmaps" in lines
    assert any("clear fields of particles" in line for line in lines)


def test_files_that_were_there_before_are_not_counted(plan, capsys, micrograph_bytes):
    plan.folder.mkdir()
    (plan.folder / "older.dm3").write_bytes(micrograph_bytes)

    assert run_demo(plan)

    assert "6 simulated files: 6 sidecars" in capsys.readouterr().out


def test_a_file_without_sidecar_fails_the_demo_and_is_named(plan, capsys, monkeypatch):
    monkeypatch.setattr(demo_module, "PATIENCE_SECONDS", 1.0)
    plan.folder.mkdir()
    (plan.folder / "session_0001.dm3.json").mkdir()

    assert not run_demo(
        DemoPlan(files=1, rate_hz=20, size_px=128, seed=3, folder=plan.folder, model=plan.model)
    )

    assert f"no sidecar: {plan.folder}/session_0001" in capsys.readouterr().out


def test_a_model_that_cannot_be_used_ends_it_at_once(plan, tmp_path):
    with pytest.raises(ModelRefused, match="neither a folder nor a shipped model"):
        run_demo(DemoPlan(folder=plan.folder, size_px=128, model=str(tmp_path / "none")))


def test_a_microscope_that_fails_is_not_waited_for(plan, monkeypatch):
    def broken(*args, **options):
        yield from ()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(demo_module, "run_microscope", broken)

    with pytest.raises(OSError, match="No space left on device"):
        run_demo(plan)
