from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

from edge_agent.packing import installing
from edge_agent.packing.installing import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """This person's places and the PC's, all below `tmp_path`."""
    found = {
        "user_config_file": tmp_path / "mine" / "config" / "scopewatch" / "agent.toml",
        "state_folder": tmp_path / "mine" / "state" / "scopewatch",
        "system_config_file": tmp_path / "etc" / "scopewatch" / "agent.toml",
        "system_state_folder": tmp_path / "var" / "scopewatch",
    }
    monkeypatch.setattr(installing, "locks_folder", lambda: tmp_path / "locks")
    for name, path in found.items():
        monkeypatch.setattr(installing, name, lambda path=path: path)
    return found


def kept_state(folder: Path, *, mark: str = "agent.lock") -> None:
    (folder / "models" / "bundles" / "tiny-1").mkdir(parents=True)
    for name in (mark, "journal.sqlite", "models/bundles/tiny-1/manifest.json"):
        (folder / name).touch()


@pytest.mark.parametrize(
    ("option", "target"), [(("--user",), "user_config_file"), ((), "system_config_file")], ids=["own", "PC"]
)
def test_the_archives_settings_come_to_their_place_once(
    tmp_path: Path,
    places: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    option: tuple[str, ...],
    target: str,
) -> None:
    archive = tmp_path / "config.toml"
    archive.write_text("folders = []\n", encoding="utf-8")

    assert main(["config", str(archive), *option]) == 0
    assert places[target].read_text(encoding="utf-8") == "folders = []\n"

    archive.write_text("settle_seconds = 9\n", encoding="utf-8")
    assert main(["config", str(archive), *option]) == 0
    assert places[target].read_text(encoding="utf-8") == "folders = []\n"
    assert capsys.readouterr().out.splitlines() == [
        f"{places[target]}: the archive's configuration",
        f"{places[target]}: is there already and stays; the archive's is {archive}",
    ]


@pytest.mark.parametrize(
    "mark", ["agent.lock", "models/store.json"], ids=["an agent ran", "models were added only"]
)
def test_what_the_agent_kept_goes_and_results_stay(
    tmp_path: Path, places: dict[str, Path], capsys: pytest.CaptureFixture[str], mark: str
) -> None:
    elsewhere, session = tmp_path / "elsewhere", tmp_path / "session"
    for folder in (places["state_folder"], places["system_state_folder"], elsewhere):
        kept_state(folder, mark=mark)
    session.mkdir()
    (session / "a.dm3.json").touch()
    file = places["system_config_file"]
    file.parent.mkdir(parents=True)
    file.write_text(f"folders = ['{session}']\nstate = '{elsewhere}'\n", encoding="utf-8")

    assert main(["leftovers"]) == 0

    left = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    assert left == ["session/a.dm3.json"]
    states = (places["state_folder"], places["system_state_folder"], elsewhere)
    said = [f"{state}: removed (journal, status, log, models)" for state in states]
    assert sorted(capsys.readouterr().out.splitlines()) == sorted([*said, f"{file}: removed"])


def test_ones_own_leaves_the_pcs_alone(tmp_path: Path, places: dict[str, Path]) -> None:
    kept_state(places["state_folder"])
    kept_state(places["system_state_folder"])

    assert main(["leftovers", "--user"]) == 0

    assert (places["state_folder"].exists(), places["system_state_folder"].exists()) == (False, True)


def test_settings_that_cannot_be_read_keep_their_state(
    places: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    kept_state(places["state_folder"])
    file = places["user_config_file"]
    file.parent.mkdir(parents=True)
    file.write_text("folders = [\n", encoding="utf-8")

    assert main(["leftovers", "--user"]) == 0

    assert (places["state_folder"] / "agent.lock").is_file()
    assert capsys.readouterr().out == (
        f"{file}: left alone, and {places['state_folder']}: which results to keep cannot be read there any more\n"
    )


def test_locks_of_watched_folders_go_unless_an_agent_holds_them(
    tmp_path: Path, places: dict[str, Path]
) -> None:
    locks = tmp_path / "locks"
    locks.mkdir()
    (locks / "free.lock").touch()
    with FileLock(locks / "held.lock"):
        assert main(["leftovers", "--user"]) == 0
        assert [path.name for path in locks.iterdir()] == ["held.lock"]

    assert main(["leftovers", "--user"]) == 0
    assert not locks.exists()


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may do everything")
def test_what_may_not_be_written_is_said(tmp_path: Path, places: dict[str, Path]) -> None:
    tmp_path.chmod(0o500)
    try:
        assert main(["config", __file__, "--user"]) == 1
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("words", [[], ["config"], ["leftovers", "now"]], ids=" ".join)
def test_anything_else_does_nothing(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err == "config FILE or leftovers, and --user\n"
