"""Which paths may be named for what is written and loaded: a table of temptations."""

from __future__ import annotations

import base64
import json
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest

from edge_agent.config import AgentConfig, ConfigRefused, configure
from edge_agent.configuring.allowed_paths import unc_host, why_no_place_for_files, why_not_usable


@pytest.mark.parametrize(
    ("path", "host"),
    [
        pytest.param(r"\\scope-pc\data", "scope-pc", id="share"),
        pytest.param("//Scope-PC/data", "scope-pc", id="the other slashes"),
        pytest.param(r"\\?\UNC\scope-pc\data", "scope-pc", id="long form"),
        pytest.param(r"\\.\unc\scope-pc\data", "scope-pc", id="device form"),
        pytest.param(r"\\scope-pc@80\dav", "scope-pc@80", id="by HTTP"),
        pytest.param(r"\\scope-pc", "scope-pc", id="host alone"),
        pytest.param(r"\\?\C:\data", None, id="long local path"),
        pytest.param(r"\\.\PhysicalDrive0", None, id="device"),
        pytest.param(r"D:\data", None, id="drive"),
        pytest.param("/data", None, id="POSIX"),
        pytest.param("///data", None, id="three slashes"),
        pytest.param("particle-shape", None, id="name"),
    ],
)
def test_the_host_in_a_path(path, host):
    assert unc_host(path) == host


WATCHED = (PureWindowsPath(r"\\scope-pc\data"), PureWindowsPath(r"D:\scope"))


@pytest.mark.parametrize(
    ("path", "why_not"),
    [
        pytest.param(r"D:\results", None, id="a folder of one's own"),
        pytest.param(r"\\scope-pc\results", None, id="the watched server"),
        pytest.param(r"\\SCOPE-PC\results", None, id="the watched server in capitals"),
        pytest.param(r"\\?\UNC\scope-pc\results", None, id="the watched server in the long form"),
        pytest.param(r"\\evil\x", "lies on evil, which no watched folder names", id="another server"),
        pytest.param("//evil/x", "lies on evil, which no watched folder names", id="with other slashes"),
        pytest.param(r"\\?\UNC\evil\x", "lies on evil, which no", id="hidden in the long form"),
        pytest.param(r"\\scope-pc@80\x", "lies on scope-pc@80, which no", id="the watched server by HTTP"),
        pytest.param(r"\\scope-pc.evil.example\x", "lies on scope-pc.evil.example", id="a longer name"),
        pytest.param("C:\\Windows\\System32", r"lies in C:\Windows, which belongs to the", id="the system"),
        pytest.param(r"c:\windows\Temp", r"lies in C:\Windows, which", id="the system in small letters"),
        pytest.param(r"\\?\C:\Windows\Temp", r"lies in C:\Windows, which", id="the system in the long form"),
        pytest.param(r"C:\Program Files\scopewatch", r"lies in C:\Program Files,", id="programs"),
        pytest.param("C:\\", "is the top of a disk", id="a whole disk"),
    ],
)
def test_where_files_may_be_written_on_windows(path, why_not, monkeypatch):
    for name in ("SYSTEMROOT", "PROGRAMFILES", "PROGRAMFILES(X86)"):
        monkeypatch.delenv(name, raising=False)
    said = why_no_place_for_files(PureWindowsPath(path), WATCHED)
    assert said == why_not or (why_not and said.startswith(why_not))


@pytest.mark.parametrize(
    ("path", "why_not"),
    [
        pytest.param("/data/results", None, id="a folder of one's own"),
        pytest.param("/home/usr/etc", None, id="names alone are nothing"),
        pytest.param("/var/lib/scopewatch", None, id="where services keep state"),
        pytest.param("/etc/cron.d", "lies in /etc, which belongs to the operating system", id="the system"),
        pytest.param("/usr/lib/python3", "lies in /usr, which", id="programs"),
        pytest.param("/dev/disk", "lies in /dev, which", id="devices"),
        pytest.param("/dev/shm/x", None, id="a folder in memory"),
        pytest.param("/", "is the top of a disk; name a folder on it", id="a whole disk"),
    ],
)
def test_where_files_may_be_written_on_posix(path, why_not):
    said = why_no_place_for_files(PurePosixPath(path), ())
    assert said == why_not or (why_not and said.startswith(why_not))


@pytest.mark.parametrize(
    ("path", "why_not"),
    [
        pytest.param(PureWindowsPath(r"\\scope-pc\data"), None, id="share on Windows"),
        pytest.param(PureWindowsPath(r"\\?\D:\deep"), None, id="long form on Windows"),
        pytest.param(PureWindowsPath(r"\\.\PhysicalDrive0"), "names a device, not a folder", id="device"),
        pytest.param(PurePosixPath(r"\\scope-pc\data"), "is a path of Windows", id="share on POSIX"),
        pytest.param(PurePosixPath(r"D:\data"), "is a path of Windows", id="drive on POSIX"),
        pytest.param(PurePosixPath("/data/a\0b"), "holds a NUL", id="NUL"),
        pytest.param(PurePosixPath("~nobody/x"), "there is no home folder", id="nobody's home"),
        pytest.param(PurePosixPath("/data"), None, id="POSIX"),
    ],
)
def test_what_can_be_a_path_at_all(path, why_not):
    said = why_not_usable(path)
    assert said == why_not or (why_not and said.startswith(why_not))


FOREIGN = "lies on evil, which no watched folder names; this account's password would be offered to it"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        pytest.param("output = '//evil/x'", f"output: //evil/x {FOREIGN}", id="output"),
        pytest.param("model = '//evil/x'", f"model: //evil/x {FOREIGN}", id="model"),
        pytest.param(r"model = '\\evil\x'", rf"model: \\evil\x {FOREIGN}", id="model with backslashes"),
        pytest.param("folders = ['//scope/a']\nmodel = '//evil/x'", f"model: //evil/x {FOREIGN}", id="beside one"),
        pytest.param(
            "folders = ['//scope/a']\nstate = '//scope/x'",
            "state: //scope/x lies on a network share; the journal and its locks need a local disk",
            id="state on the watched server",
        ),
        pytest.param(
            "output = '/etc/x'", "output: /etc/x lies in /etc, which belongs to the operating system", id="system"
        ),
        pytest.param("output = 'a/../../../../../../../../../../../etc'", "output: /etc lies in /etc", id="by ups"),
        pytest.param("state = '/proc/1'", "state: /proc/1 lies in /proc, which", id="state in the system"),
    ],
)  # fmt: skip
def test_a_configuration_with_such_a_path_is_refused(tmp_path, text, complaint):
    file = tmp_path / "agent.toml"
    file.write_text(text)

    with pytest.raises(ConfigRefused) as refused:
        configure(file)

    line = text.count("\n") + 1
    assert str(refused.value).startswith(f"{file}:{line}: {complaint}")


def test_wrong_folders_are_not_held_against_other_keys(tmp_path):
    file = tmp_path / "agent.toml"
    file.write_text("folders = ['//scope/a', '//scope/a/b']\noutput = '//scope/x'\nmodel = '//scope/m'\n")

    with pytest.raises(ConfigRefused) as refused:
        configure(file)

    assert str(refused.value) == (
        f"{file}:1: folders: //scope/a/b lies in //scope/a, which is watched with everything below it"
    )


def test_outputs_and_models_may_lie_on_the_server_that_is_watched():
    config = AgentConfig(
        folders=(Path("//scope/data"),), output=Path("//SCOPE/results"), model="//scope/models/m"
    )
    assert config.output == Path("//SCOPE/results")


def test_an_output_folder_may_lie_in_the_watched_one(tmp_path):
    config = AgentConfig(folders=(tmp_path,), output=tmp_path / "results")
    assert config.output == tmp_path / "results"


KEY = base64.b64encode(bytes(range(32))).decode()


@pytest.mark.parametrize(
    ("table", "key", "value", "complaint"),
    [
        ("events", "webhook_url", "https://lims.example.org:8443/in?key=1", None),
        ("events", "webhook_url", "http://127.0.0.1/x", None),
        ("events", "webhook_url", "ftp://lims/x", "is no address of this kind; write it as https://host/path"),
        ("events", "webhook_url", "https:///x", "is no address of this kind; write it as"),
        ("events", "webhook_url", "lims.example.org/x", "is no address of this kind; write it as"),
        ("events", "webhook_url", "https://lims:99999/x", "is no address of this kind; write it as"),
        ("events", "webhook_url", "https://li ms/x", "is no address of this kind; write it as"),
        ("events", "webhook_url", "https://lims/x\r\nHost: evil", "is no address of this kind; write it as"),
        ("events", "webhook_url", "file:///etc/passwd", "is no address of this kind; write it as"),
        ("events", "webhook_url", "https://me:secret@lims/x", "holds a user or a password, which would stand in"),
        ("events", "mqtt_url", "mqtt://broker/scope/findings", None),
        ("events", "mqtt_url", "mqtts://broker:8883/scope", None),
        ("events", "mqtt_url", "mqtts://me@broker:8883/scope", "holds a user or a password, which would stand"),
        ("events", "mqtt_url", "mqtt://broker:1883", "names no topic to publish under; write it as mqtt://host:"),
        ("events", "mqtt_url", "mqtt://broker/", "names no topic"),
        ("events", "mqtt_url", "mqtt://broker/a/#", "names no topic"),
        ("events", "mqtt_url", "mqtt://broker/a/+/b", "names no topic"),
        ("events", "mqtt_url", "https://broker/x", "is no address of this kind; write it as mqtt://host:1883/topic"),
        (None, "trusted_keys", [f"ed25519:{KEY}"], None),
        (None, "trusted_keys", [f"ed25519:{KEY[:-4]}"], "(item 1): 'ed25519:"),
        (None, "trusted_keys", [f"ed25519:{KEY}", f"rsa:{KEY}"], "(item 2): 'rsa:"),
        (None, "trusted_keys", [f"ed25519:{KEY[:-1]}!"], "(item 1): "),
        (None, "trusted_keys", [KEY], "(item 1): "),
    ],
)  # fmt: skip
def test_addresses_and_keys_are_checked_while_they_are_written(tmp_path, table, key, value, complaint):
    file = tmp_path / "agent.toml"
    file.write_text((f"[{table}]\n" if table else "") + f"{key} = {json.dumps(value)}\n")

    if complaint is None:
        configure(file)
        return
    with pytest.raises(ConfigRefused) as refused:
        configure(file)
    where, line = (f"{table}.{key}: ", 2) if table else (f"{key} ", 1)
    assert str(refused.value).startswith(f"{file}:{line}: {where}{complaint}")
