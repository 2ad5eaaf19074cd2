"""What the model store remembers, and how it changes: which models were accepted, which one answers, which failed.

Values only, no disk: every change gives a new record. Only this module decides what the last good model is and
what counts as a downgrade. Keys that a later version adds are kept (a channel or a roll-out ring, for one).
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from edge_agent.model_names import (
    LONGEST_VERSION,
    NAME_PATTERN,
    VERSION_PATTERN,
    name_and_version,
    version_order,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

SCHEMA: Final = "scopewatch.store/1"
_MOST_EARLIER: Final = 20
_MOST_EVENTS: Final = 100
_Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class StoreRefused(Exception):
    """What was asked of the model store cannot be done; the text says why and what to do."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)


class ReplayFigures(_Part):
    """The golden replay on this PC when the model was accepted: largest differences from what was exported."""

    cases: int
    probabilities: float
    cam: float
    novelty: float
    tolerance: float


class Refusal(_Part):
    """Why a model of the store may not answer any more, and since when."""

    reason: str
    at: AwareDatetime


class Accepted(_Part):
    """A bundle in the store as it was when it was accepted; `signed_by` is None where no keys were trusted."""

    name: str = Field(pattern=NAME_PATTERN)
    version: str = Field(pattern=VERSION_PATTERN, max_length=LONGEST_VERSION)
    manifest_sha256: _Sha256
    model_sha256: _Sha256
    labels: tuple[str, ...]
    accepted: AwareDatetime
    signed_by: str | None
    replay: ReplayFigures
    worked: AwareDatetime | None = None
    """When the agent first loaded it."""
    refused: Refusal | None = None

    @property
    def folder(self) -> str:
        """Its folder below `bundles`, which is also its full name."""
        return f"{self.name}-{self.version}"

    @property
    def vouched(self) -> str:
        """Who stands for it, in words."""
        return "unsigned" if self.signed_by is None else f"signed by {self.signed_by}"


class Choice(_Part):
    """A model that answers, or answered: one of the store, or one that came with the installation.

    `name` is `name-version`; None is the installation's default, whichever that is.
    """

    origin: Literal["store", "shipped"] = "shipped"
    name: str | None = None


SHIPPED_DEFAULT: Final = Choice()


class Event(_Part):
    """What happened to a model of the store: added, used, rolled back to, returned to, refused, removed."""

    at: AwareDatetime
    what: str
    model: str
    note: str | None = None


class StoreRecord(_Part):
    """Everything in `store.json`. `choice` differs after each change of what may answer."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False, populate_by_name=True)

    schema_: Literal["scopewatch.store/1"] = Field(default="scopewatch.store/1", alias="schema")
    choice: str = ""
    current: Choice = SHIPPED_DEFAULT
    earlier: tuple[Choice, ...] = ()
    """What answered before, last first; a roll-back takes the first that is still good."""
    accepted: tuple[Accepted, ...] = ()
    floors: dict[str, str] = Field(default_factory=dict)
    """By name, the highest version ever used; no lower one is accepted."""
    history: tuple[Event, ...] = ()

    def entry(self, folder: str) -> Accepted | None:
        """The accepted model called `name-version`."""
        return next((one for one in self.accepted if one.folder == folder), None)

    def entry_with(self, manifest_sha256: str) -> Accepted | None:
        """The accepted model with this very manifest."""
        return next((one for one in self.accepted if one.manifest_sha256 == manifest_sha256), None)

    def named(self, name: str) -> Accepted | None:
        """The accepted `name-version`; else of those called `name` the current or the newest good one."""
        exact = self.entry(name)
        if exact is not None:
            return exact
        of_name = [one for one in self.accepted if one.name == name]
        current = [one for one in of_name if self.current == choice_of(one)]
        newest = sorted(of_name, key=lambda one: version_order(one.version))
        good = [one for one in (*current, *reversed(newest)) if one.refused is None]
        return next(iter(good or reversed(newest)), None)

    def is_good(self, choice: Choice) -> bool:
        """Whether a choice may answer; of a shipped model that is found out when it is loaded."""
        if choice.origin == "shipped":
            return True
        found = self.entry(choice.name or "")
        return found is not None and found.refused is None

    def last_good(self) -> Choice:
        """What answers in the place of a model that failed."""
        return next((one for one in self.earlier if self.is_good(one)), SHIPPED_DEFAULT)

    def floor(self, name: str, shipped: Iterable[Path]) -> str | None:
        """The highest version of a name that was ever used or comes with the installation."""
        known = [self.floors[name]] if name in self.floors else []
        known += [version for one, version in map(_parts, shipped) if one == name]
        return max(known, key=version_order, default=None)

    def require_no_downgrade(self, name: str, version: str, shipped: Iterable[Path]) -> None:
        """Raise StoreRefused for a version below the floor."""
        floor = self.floor(name, shipped)
        if floor is not None and version_order(version) < version_order(floor):
            raise StoreRefused(
                f"{name} {version}: older than {floor}, which was in use here or came with the installation; "
                "`models rollback` goes back to what answered before"
            )

    def with_accepted(self, new: Accepted) -> Self:
        """Add a model, or replace what is remembered of it; it answers where it is asked for by name."""
        others = tuple(one for one in self.accepted if one.folder != new.folder)
        # Who asked for the newest model of a name may get another one now.
        return self._told(new.folder, "added", new.vouched, accepted=(*others, new), choice=_token())

    def with_used(self, choice: Choice, name: str, version: str) -> Self:
        """Let a model answer from now on, and remember what answered before. Raises StoreRefused."""
        if choice == self.current:
            raise StoreRefused(f"{name}-{version} is the current model already")
        before = (self.current, *self.earlier) if self.is_good(self.current) else self.earlier
        earlier = tuple(one for one in before if one != choice)[:_MOST_EARLIER]
        floors = self._raised(name, version)
        return self._told(
            f"{name}-{version}", "used", current=choice, earlier=earlier, floors=floors, choice=_token()
        )

    def rolled_back(self, what: str = "rolled back to", note: str | None = None) -> Self:
        """Let the last good model answer again. Raises StoreRefused where there is none before this one."""
        choice = self.last_good()
        if choice == self.current:
            raise StoreRefused("there is no earlier model to go back to")
        place = self.earlier.index(choice) + 1 if choice in self.earlier else len(self.earlier)
        name = choice.name or "the shipped default"
        return self._told(name, what, note, current=choice, earlier=self.earlier[place:], choice=_token())

    def with_refused(self, folder: str, refusal: Refusal) -> Self:
        """Mark a model as not to be used; if it is the current one, the last good one answers again."""
        marked = tuple(
            one.model_copy(update={"refused": refusal}) if one.folder == folder else one
            for one in self.accepted
        )
        told = self._told(folder, "refused", refusal.reason, accepted=marked, choice=_token())
        if self.current == Choice(origin="store", name=folder):
            return told.rolled_back("returned to", f"{folder} was refused ({refusal.reason})")
        return told

    def with_worked(self, manifest_sha256: str) -> Self:
        """Note the first time that the agent loaded a model; nothing changes where that is known."""
        found = self.entry_with(manifest_sha256)
        if found is None or found.worked is not None:
            return self
        done = found.model_copy(update={"worked": datetime.now(UTC)})
        accepted = tuple(done if one is found else one for one in self.accepted)
        floors = self._raised(found.name, found.version)
        return self.model_copy(update={"accepted": accepted, "floors": floors})

    def without(self, folder: str) -> Self:
        """Forget a model; its floor stays. Raises StoreRefused for the current one."""
        choice = Choice(origin="store", name=folder)
        if choice == self.current:
            raise StoreRefused(f"{folder} is the current model; use another one first, or roll back")
        accepted = tuple(one for one in self.accepted if one.folder != folder)
        earlier = tuple(one for one in self.earlier if one != choice)
        return self._told(folder, "removed", accepted=accepted, earlier=earlier)

    def _raised(self, name: str, version: str) -> dict[str, str]:
        highest = max((version, self.floors.get(name, version)), key=version_order)
        return {**self.floors, name: highest}

    def _told(self, model: str, what: str, note: str | None = None, **changes: object) -> Self:
        event = Event(at=datetime.now(UTC), what=what, model=model, note=note)
        history = (*self.history, event)[-_MOST_EVENTS:]
        return self.model_copy(update={**changes, "history": history})


def choice_of(entry: Accepted) -> Choice:
    """The choice that stands for a model of the store."""
    return Choice(origin="store", name=entry.folder)


def _parts(folder: Path) -> tuple[str, str]:
    return name_and_version(folder.name)


def _token() -> str:
    return secrets.token_hex(8)
