"""What a tab holds: what it was told, and its memory, nodes and listeners once the rest is collected."""

from __future__ import annotations

from typing import Any, Final

COUNT_TOLD: Final = """() => {
  window.told = {entry: 0, resync: 0};
  window.listening = new BroadcastChannel('scopewatch');
  window.listening.onmessage = ({data}) => { window.told[data.kind] += 1; };
}"""
COLLECTED: Final = ("JSHeapUsedSize", "Nodes", "JSEventListeners")


def collected(tab: Any) -> dict[str, float]:
    """Bytes, nodes and listeners (`COLLECTED`) that a tab holds once everything that nobody holds is gone."""
    session = tab.context.new_cdp_session(tab)
    session.send("Performance.enable")
    for _ in range(3):
        session.send("HeapProfiler.collectGarbage")
        tab.wait_for_timeout(300)
    metrics = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    session.detach()
    return {name: metrics[name] for name in COLLECTED}
