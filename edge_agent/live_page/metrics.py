"""The agent's numbers as Prometheus metrics: names, units and what each of them means.

Built from the last status and the counts at every scrape, so the watching pays nothing for them. No label holds
a path, a file's name or anything else that grows without end. Only this module knows metric names; the board and
the alert rules beside it use them.
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.registry import Collector

from edge_agent import __version__
from edge_agent.live_page.pulse import not_alive, not_ready, not_watched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.metrics_core import Metric

    from edge_agent.announcing.outbox import ChannelNumbers
    from edge_agent.live_page.pulse import MonitorState, Pulse
    from edge_agent.live_page.tallies import Counted, Distribution
    from edge_agent.status import AgentStatus, DiskStatus

_MIB: Final = 2**20

_GAUGES: Final[tuple[tuple[str, str, Callable[[AgentStatus], float]], ...]] = (
    ("backlog_files", "Files that were found and are not answered yet.", lambda s: s.waiting),
    (
        "oldest_pending_seconds",
        "How long the file that was seen first has been waiting for its answer; 0 when none waits.",
        lambda s: s.oldest_waiting_seconds or 0.0,
    ),
    ("seen_files", "Files below the watched folders that are done or wait.", lambda s: s.seen),
    (
        "incomplete_files",
        "Files that somebody is still writing, as far as can be seen.",
        lambda s: s.incomplete,
    ),
    (
        "stalled_files",
        "Files that stay incomplete, those that have a sidecar saying so among them.",
        lambda s: s.stalled,
    ),
    ("failing_files", "Files that are tried again after a failure.", lambda s: s.failing),
    ("orphaned_sidecars", "Sidecars whose micrograph is gone.", lambda s: s.orphaned),
    ("paused", "1 while nothing is examined: a full disk, or a busy PC.", lambda s: s.paused is not None),
    ("worker_up", "1 while there is a worker process.", lambda s: s.worker.pid is not None),
    ("start_time_seconds", "When this run of the watching started.", lambda s: s.started.timestamp()),
    (
        "heartbeat_timestamp_seconds",
        "When the agent's main loop last spoke.",
        lambda s: s.updated.timestamp(),
    ),
    (
        "config_refused",
        "1 while an edit of the configuration is refused and the one before is in force.",
        lambda s: s.config is not None and s.config.refused is not None,
    ),
    (
        "model_fallback",
        "1 while another model answers than was asked for.",
        lambda s: s.model_note is not None,
    ),
)
_COUNTERS: Final[tuple[tuple[str, str, Callable[[AgentStatus], float]], ...]] = (
    ("worker_starts", "Worker processes that were started.", lambda s: s.worker.starts),
    ("worker_deaths", "Worker processes that ended without being told to.", lambda s: s.worker.deaths),
    (
        "worker_recycled",
        "Workers that were relieved by a fresh one, as planned.",
        lambda s: s.worker.recycled,
    ),
    (
        "worker_interrupted",
        "Examinations that were cut short for something that is no fault of the file.",
        lambda s: s.worker.interrupted,
    ),
    ("scans", "Scans of watched folders that came to their end.", lambda s: s.scans),
    (
        "taken_over_files",
        "Files whose sidecar was there already and was believed.",
        lambda s: s.since_start.get("taken_over", 0),
    ),
)


def registry_of(state: MonitorState) -> CollectorRegistry:
    """Return a registry of its own with the agent's metrics and those of its process."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_AgentCollector(state))
    ProcessCollector(registry=registry)
    return registry


class _AgentCollector(Collector):
    def __init__(self, state: MonitorState) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        """Return all metrics as they are at this moment."""
        pulse, counted = self._state.pulse(), self._state.tallies.counted()
        yield _gauge("alive", "1 while the agent lives, as /healthz says.", not not_alive(pulse))
        yield _gauge(
            "ready", "1 while a new file would be answered soon, as /readyz says.", not not_ready(pulse)
        )
        yield _info(
            "build",
            "The agent's version and what it runs on.",
            {
                "version": __version__,
                "python": platform.python_version(),
                "system": platform.system().lower(),
            },
        )
        yield from _counted(counted)
        yield from _events(self._state.channels())
        if pulse.status is not None:
            yield from _status(pulse.status)
            yield from _watching(pulse.status, pulse)
            yield from _disks(pulse.status)
            yield from _identity(pulse.status)
            yield from _drift(pulse.status)


def _counted(counted: Counted) -> Iterator[Metric]:
    files = _counter(
        "files", "Examinations that ended, by outcome; a file that is tried again counts again.", "outcome"
    )
    for outcome, count in counted.outcomes.items():
        files.add_metric([outcome], count)
    yield files
    answers = _counter("predictions", "Answers of the model, by label and decision.", "label", "decision")
    for (label, decision), count in counted.answers.items():
        answers.add_metric([label, decision], count)
    yield answers
    corrections = _counter(
        "corrections", "Answers that a person said are wrong, by the label given.", "label"
    )
    for label, count in counted.corrections.items():
        corrections.add_metric([label], count)
    yield corrections
    stages = HistogramMetricFamily(
        "scopewatch_stage_duration_seconds", "Time spent on a file, by stage.", labels=["stage"]
    )
    for stage, distribution in counted.stages.items():
        stages.add_metric([stage], _buckets(distribution), distribution.sum_seconds)
    yield stages
    yield HistogramMetricFamily(
        "scopewatch_latency_seconds",
        "Time from when a file was found quiet to its sidecar.",
        buckets=_buckets(counted.latency),
        sum_value=counted.latency.sum_seconds,
    )


def _buckets(distribution: Distribution) -> list[tuple[str, float]]:
    total, buckets = 0, []
    bounds = [repr(bound) for bound in distribution.bounds_seconds]
    for bound, count in zip((*bounds, "+Inf"), distribution.counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets


def _events(channels: tuple[ChannelNumbers, ...]) -> Iterator[Metric]:
    sent = _counter("events_sent", "Events that a receiver took.", "receiver")
    dropped = _counter("events_dropped", "Events that no receiver will get.", "receiver")
    failures = _counter("events_failures", "Tries to send an event that failed.", "receiver")
    waiting = _labelled("events_waiting", "Events that wait to be sent.", "receiver")
    for numbers in channels:
        sent.add_metric([numbers.channel], numbers.sent)
        dropped.add_metric([numbers.channel], numbers.dropped)
        failures.add_metric([numbers.channel], numbers.failures)
        waiting.add_metric([numbers.channel], numbers.waiting)
    yield from (sent, dropped, failures, waiting)


def _status(status: AgentStatus) -> Iterator[Metric]:
    for name, text, value in _GAUGES:
        yield _gauge(name, text, value(status))
    for name, text, value in _COUNTERS:
        yield _counter(name, text, value=value(status))
    journal = _labelled("journal_files", "Files in the journal, by outcome.", "outcome")
    for outcome, count in status.done.items():
        journal.add_metric([outcome], count)
    yield journal


def _watching(status: AgentStatus, pulse: Pulse) -> Iterator[Metric]:
    unwatched = sum(not_watched(folder, pulse) is not None for folder in status.folders)
    yield _gauge(
        "watcher_healthy",
        "1 while every watched folder is there and is scanned in time.",
        bool(status.folders) and not unwatched,
    )
    folders = _labelled("folders", "Watched folders, by whether they are there.", "state")
    present = sum(folder.present for folder in status.folders)
    folders.add_metric(["present"], present)
    folders.add_metric(["missing"], len(status.folders) - present)
    yield folders
    scans = [folder.scanned for folder in status.folders]
    scanned = [scan.timestamp() for scan in scans if scan is not None]
    yield _gauge(
        "last_scan_timestamp_seconds",
        "When the watched folder that was not scanned for longest was scanned; 0 before the first scan of each.",
        min(scanned) if scans and len(scanned) == len(scans) else 0.0,
    )
    if status.last_scan_seconds is not None:
        yield _gauge(
            "last_scan_duration_seconds", "How long the longest last scan took.", status.last_scan_seconds
        )


def _disks(status: AgentStatus) -> Iterator[Metric]:
    free = _labelled("disk_free_bytes", "Free space, of the fullest disk where there are several.", "disk")
    low = _labelled("disk_low", "1 while a disk is below its floor and nothing is written to it.", "disk")
    for name, disks in _by_use(status):
        free.add_metric([name], min(disk.free_mib for disk in disks) * _MIB)
        low.add_metric([name], any(disk.low for disk in disks))
    yield free
    yield low


def _by_use(status: AgentStatus) -> Iterator[tuple[str, list[DiskStatus]]]:
    of_state = [disk for disk in status.disks if disk.folder == status.state]
    of_outputs = [disk for disk in status.disks if disk.folder != status.state]
    for name, disks in (("state", of_state), ("outputs", of_outputs)):
        if disks:
            yield name, disks


def _identity(status: AgentStatus) -> Iterator[Metric]:
    if status.model is not None:
        model = status.model
        yield _info("model", "The model that answers.", model.model_dump(exclude={"labels"}))
    if status.instrument is not None:
        yield _info("instrument", "How the laboratory calls the instrument.", {"name": status.instrument})


def _drift(status: AgentStatus) -> Iterator[Metric]:
    """Of the last day with files: whether its micrographs are still of the kind that the model was measured on."""
    left = _labelled(
        "drift_left", "1 while a quantity has left the model's usual range on its last day.", "quantity"
    )
    mean = _labelled("drift_mean", "Mean of a quantity over the files of its last day.", "quantity")
    files = _labelled("drift_files", "Files of that day.", "quantity")
    latest = max((number.day for number in status.drift), default=None)
    for number in status.drift:
        if number.day == latest:
            left.add_metric([number.quantity], bool(number.left))
            mean.add_metric([number.quantity], number.mean)
            files.add_metric([number.quantity], number.files)
    yield left
    yield mean
    yield files


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"scopewatch_{name}", text, value=float(value))


def _labelled(name: str, text: str, label: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"scopewatch_{name}", text, labels=[label])


def _counter(name: str, text: str, *labels: str, value: float | None = None) -> CounterMetricFamily:
    return CounterMetricFamily(f"scopewatch_{name}", text, value=value, labels=labels or None)


def _info(name: str, text: str, values: dict[str, str]) -> Metric:
    return InfoMetricFamily(f"scopewatch_{name}", text, value=values)
