"""What is said to the picture maker: one JSON object a line, over its stdin and stdout.

It is first told how to work (`MakerSettings`), then asked for the pictures of one file after the other (`Order`);
each order is answered by `Made` or `NotMade`. Nothing here knows a parser, so both processes can import it.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from edge_agent.preview_files import Previews
from edge_agent.protocol import NotUnderstood

if TYPE_CHECKING:
    from collections.abc import Callable

MEMORY_LIMIT_MIB: Final = 4096
READY: Final = "ready"
"""What the picture maker says once it has understood its settings."""
_Message = TypeVar("_Message")


@dataclass(frozen=True, slots=True)
class MakerSettings:
    """How to work. Pictures are kept in `folder`, unless it is None; nothing outside `roots` is read."""

    roots: tuple[Path, ...]
    folder: Path | None
    snapshot_limit_mib: int = 512
    free_space_floor_mib: int = 0
    memory_limit_mib: int = MEMORY_LIMIT_MIB
    supervisor_pid: int | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """A file, and the bytes it must still hold: their SHA-256, or the fingerprint of a large file."""

    path: Path
    content: str


@dataclass(frozen=True, slots=True)
class NotMade:
    """Why there is no picture. `passing`: it may be another time."""

    reason: str
    passing: bool = False


def settings_line(settings: MakerSettings) -> str:
    """Return the first line that a picture maker is sent."""
    return _line(asdict(settings))


def read_settings(line: str) -> MakerSettings:
    """Read what `settings_line` wrote. Raises NotUnderstood on anything else."""

    def read(values: dict[str, Any]) -> MakerSettings:
        folder = values.pop("folder")
        roots = tuple(Path(root) for root in values.pop("roots"))
        return MakerSettings(roots, None if folder is None else Path(folder), **values)

    return _understood(read, line)


def order_line(order: Order) -> str:
    """Return one order as a line."""
    return _line(asdict(order))


def read_order(line: str) -> Order:
    """Read what `order_line` wrote. Raises NotUnderstood on anything else."""
    return _understood(lambda values: Order(Path(values["path"]), str(values["content"])), line)


def answer_line(answer: Previews | NotMade) -> str:
    """Return an answer as a line."""
    if isinstance(answer, NotMade):
        return _line(asdict(answer))
    return _line({name: base64.b64encode(data).decode() for name, data in asdict(answer).items()})


def read_answer(line: str) -> Previews | NotMade:
    """Read what `answer_line` wrote. Raises NotUnderstood on anything else."""

    def read(values: dict[str, Any]) -> Previews | NotMade:
        if "reason" in values:
            return NotMade(str(values["reason"]), bool(values["passing"]))
        return Previews(_data(values["picture"]), _data(values["thumb"]))

    return _understood(read, line)


def _data(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _understood(read: Callable[[dict[str, Any]], _Message], line: str) -> _Message:
    try:
        return read(json.loads(line))
    # RecursionError: JSON that opens a thousand brackets.
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error) as error:
        raise NotUnderstood(f"{type(error).__name__}: {error}, at {line[:80]!r}") from None


def _line(values: dict[str, Any]) -> str:
    # ASCII with escapes: a name's undecodable bytes (lone surrogates) and its newlines both pass unharmed.
    return json.dumps(values, default=str, allow_nan=False)
