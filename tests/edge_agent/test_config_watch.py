"""An edit is noticed once, and only when it is whole, whatever way an editor saves."""

from __future__ import annotations

import pytest

from edge_agent.hosting.config_watch import ConfigWatch


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Bench:
    def __init__(self, file):
        self.file, self.clock = file, Clock()
        self.file.write_text("a = 1\n")
        self.watch = ConfigWatch(file, self.clock)

    def looks(self, seconds):
        """Look twice a second for so long; return what is news, and when."""
        news = []
        for _ in range(int(seconds * 2)):
            self.clock.now += 0.5
            found = self.watch.look()
            if found is not None:
                news.append(found)
        return news


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path / "agent.toml")


def in_place(file):
    file.write_text("a = 2\n")


def renamed(file):
    other = file.with_name("agent.toml~new")
    other.write_text("a = 2\n")
    other.replace(file)


def away_and_back(file):
    file.unlink()
    file.write_text("a = 2\n")


def another_link(file):
    (file.parent / "second.toml").write_text("a = 2\n")
    file.unlink()
    file.symlink_to(file.parent / "second.toml")


@pytest.mark.parametrize("save", [in_place, renamed, away_and_back, another_link])
def test_an_edit_is_news_once(bench, save):
    assert bench.looks(5) == []
    save(bench.file)
    assert bench.looks(5) == ["edited"]
    assert bench.looks(10) == []


def test_what_is_still_being_written_is_no_news(bench):
    bench.looks(3)
    found = []
    for number in range(10):
        bench.file.write_text("a" * number)
        found += bench.looks(0.5)
    assert found == []
    assert bench.looks(5) == ["edited"]


def test_an_edit_that_is_undone_before_it_counts_is_no_news(bench):
    import os

    stamp = bench.file.stat().st_mtime_ns
    bench.looks(2)
    bench.file.write_text("a = ")
    bench.looks(0.5)
    bench.file.write_text("a = 1\n")
    os.utime(bench.file, ns=(stamp, stamp))
    assert bench.looks(10) == []


def test_saving_the_same_again_is_news(bench):
    bench.looks(3)
    bench.file.write_text("a = 1\n")
    assert bench.looks(5) == ["edited"]


def test_a_file_that_is_gone_is_news_once_and_so_is_its_return(bench):
    bench.file.unlink()
    assert bench.looks(20) == ["gone"]
    bench.file.write_text("a = 1\n")
    assert bench.looks(20) == ["edited"]


@pytest.mark.parametrize(
    "obstacle",
    [
        pytest.param(lambda file: file.mkdir(), id="a folder"),
        pytest.param(lambda file: file.symlink_to(file), id="a link to itself"),
        pytest.param(lambda file: file.write_bytes(bytes(5 * 2**20)), id="far too long"),
    ],
)
def test_what_cannot_be_a_configuration_counts_as_gone(bench, obstacle):
    bench.file.unlink()
    obstacle(bench.file)
    assert bench.looks(10) == ["gone"]


def test_whoever_asks_for_it_has_the_file_judged_anew(bench):
    bench.looks(1)
    bench.watch.look_now()
    assert bench.looks(3) == ["edited"]
