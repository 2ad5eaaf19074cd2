"""The picture maker: a program that draws the page's pictures of micrographs that the worker left long ago.

A process of its own, because a file that kills a parser must not kill the agent, and the worker's time belongs to
new files. It reads nothing but regular files that really lie in a watched folder, and shows none whose bytes are
not those that were asked for. It speaks `picture_orders` on its stdin and stdout.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Final, TextIO

from edge_agent.grey_scale import field_statistics
from edge_agent.micrograph import IncompleteFile, UnusableFile, read_micrograph
from edge_agent.picture_orders import (
    READY,
    MakerSettings,
    NotMade,
    Order,
    answer_line,
    read_order,
    read_settings,
)
from edge_agent.preprocessing import Preprocessing
from edge_agent.preview_files import keep_previews
from edge_agent.previews import draw_previews
from edge_agent.processes import child_pipes, process_limits

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.preview_files import Previews

CLIPPED_FRACTION: Final = Preprocessing().clipped_fraction
"""That of the model is not known here; the shipped ones have this."""


def main() -> None:
    """Run until the agent says goodbye, or is gone."""
    child_pipes.leave_signals_to_supervisor()
    orders, answers = child_pipes.take_over_pipes()
    # An agent that is gone breaks the pipe; there is nobody left to tell.
    with contextlib.suppress(BrokenPipeError, process_limits.SupervisorGone):
        _serve(child_pipes.Inbox(orders), answers)


def pictures_of(order: Order, settings: MakerSettings) -> Previews | NotMade:
    """Draw the pictures of one file, and keep them; raises MemoryError, and nothing that a file contains."""
    try:
        real = _inside(order.path, settings.roots)
        if real is None:
            return NotMade("the file does not lie in a watched folder: a link leads out of it")
        micrograph = read_micrograph(real, snapshot_limit_mib=settings.snapshot_limit_mib)
    except FileNotFoundError:
        return NotMade("the file is not there any more", passing=True)
    except IncompleteFile as error:
        return NotMade(f"the file cannot be drawn: {error.reason}", passing=True)
    except UnusableFile as error:
        return NotMade(f"the file cannot be drawn: {error.reason}")
    except OSError as error:
        return NotMade(f"the file cannot be opened: {error.strerror or error}", passing=True)
    source = micrograph.source
    if order.content not in (source.sha256, source.fingerprint):
        return NotMade("the file has changed since it was classified", passing=True)
    contrast = field_statistics(micrograph.pixels, CLIPPED_FRACTION).contrast
    previews = draw_previews(micrograph.pixels, contrast)
    if settings.folder is not None:
        keep_previews(settings.folder, order.content, previews, settings.free_space_floor_mib)
    return previews


def _inside(path: Path, roots: tuple[Path, ...]) -> Path | None:
    """Return where a file really is, if that is in one of the folders. Raises OSError."""
    try:
        real = path.resolve(strict=True)
        # Its own folder first: another one may lie on a share that hangs.
        ordered = sorted(roots, key=lambda root: not path.is_relative_to(root))
        return real if any(real.is_relative_to(root.resolve()) for root in ordered) else None
    except (RuntimeError, ValueError):  # links in a circle; a zero byte in the name
        return None


def _serve(inbox: child_pipes.Inbox, answers: TextIO) -> None:
    lines = iter(inbox)
    settings = child_pipes.read_first(lines, read_settings)
    if settings is None:
        return
    inbox.depends = settings.supervisor_pid is not None
    _accept_limits(settings)
    child_pipes.say(answers, READY)
    for order in child_pipes.read_each(lines, read_order, "order"):
        try:
            answer = answer_line(pictures_of(order, settings))
        except MemoryError:
            # What failed half-way may hold on to memory: the next order gets a fresh process.
            sys.exit(f"more memory is needed than {settings.memory_limit_mib} MiB")
        child_pipes.say(answers, answer)


def _accept_limits(settings: MakerSettings) -> None:
    if settings.supervisor_pid is not None:
        process_limits.die_with(settings.supervisor_pid)
    process_limits.crash_quietly()
    process_limits.be_first_to_go()
    process_limits.lower_priority()
    process_limits.limit_memory(settings.memory_limit_mib)


if __name__ == "__main__":
    main()
