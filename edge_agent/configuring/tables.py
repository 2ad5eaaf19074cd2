"""The keys of the configuration: names, defaults, limits, meanings.

Only this module knows them. The schema, the commented file of `config init` and what is said of a wrong value
are all made from what stands here, the texts below the keys included.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from importlib.util import find_spec
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Final, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from edge_agent.configuring.allowed_paths import (
    unc_host,
    why_host_is_foreign,
    why_no_place_for_files,
    why_not_usable,
)
from edge_agent.configuring.places import state_folder
from edge_agent.instrument_profile import InstrumentProfile, are_one_magnification

DEFAULT_INCLUDE: Final = ("*.dm3", "*.dm4")
_KEY_BYTES: Final = 32
_HOST_NAME: Final = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*"
)


def _pattern(pattern: str) -> str:
    if not pattern or "/" in pattern or "\\" in pattern:
        raise ValueError(f"{pattern!r} is no pattern of file names (give no folder in it)")
    return pattern


def _usable_path(path: Path) -> Path:
    why_not = why_not_usable(path)
    if why_not is not None:
        raise ValueError(f"{str(path)!r} {why_not}")
    return path


def _trusted_key(key: str) -> str:
    kind, _, text = key.partition(":")
    try:
        length = len(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        length = 0
    if kind != "ed25519" or length != _KEY_BYTES:
        raise ValueError(
            f'{key!r} is no public key; one is "ed25519:" and the base64 of {_KEY_BYTES} bytes, as '
            "`edge-trainer new-key` prints it"
        )
    return key


def _magnification(text: str) -> str:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f'{text!r} is no magnification; write it as a number in quotes, for example "40000"')
    return text


def _host_name(text: str) -> str:
    if not _HOST_NAME.fullmatch(text):
        raise ValueError(
            f"{text!r} is no name of a PC; write it without scheme and port, for example scope-pc.local"
        )
    return text.lower()


Pattern = Annotated[str, AfterValidator(_pattern)]
UsablePath = Annotated[Path, AfterValidator(_usable_path)]
TrustedKey = Annotated[str, AfterValidator(_trusted_key)]
Magnification = Annotated[str, AfterValidator(_magnification)]
HostName = Annotated[str, AfterValidator(_host_name)]
PixelSizeNm = Annotated[float, Field(ge=0.0001, le=1e6)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class PageConfig(_Table):
    """The operator's page, health and metrics, on this PC only (127.0.0.1) unless `listen` is given."""

    enabled: bool = True
    """Whether to listen at all."""
    port: int = Field(default=8747, ge=0, le=65535)
    """The port; 0 is any free one, which `status` then names. When it is taken the agent works without."""
    pictures_mib: int = Field(default=512, ge=0, le=2**20)
    """Grey pictures of micrographs may take so much of the state folder; the oldest go first, and are made again
    when somebody looks at them. 0 keeps none."""
    listen: str | None = Field(default=None, examples=["192.168.1.5"])
    """One more address of this PC, on which other PCs reach the page: by TLS, and only with the page's key, for
    health and metrics too. Not given, there is none."""
    certificate: UsablePath | None = Field(default=None, examples=["page.crt"])
    """The certificate for `listen`, a PEM file, with those between it and its authority behind it."""
    private_key: UsablePath | None = Field(default=None, examples=["page.key"])
    """The key of the certificate, a PEM file without a password that only the agent's account can read."""
    names: tuple[HostName, ...] = ()
    """Names under which other PCs reach `listen`, besides the address itself; the certificate must have them."""

    @field_validator("listen")
    @classmethod
    def _one_address(cls, listen: str | None) -> str | None:
        try:
            address = None if listen is None else ip_address(listen)
        except ValueError:
            raise ValueError(
                f'{listen!r} is no address; write one of this PC, for example "192.168.1.5"'
            ) from None
        if address is not None and (address.is_unspecified or address.is_loopback or address.is_multicast):
            raise ValueError(
                f"{listen} is no address under which other PCs reach this one; name the one they use"
            )
        return None if address is None else str(address)

    @field_validator("certificate", "private_key")
    @classmethod
    def _on_this_pc(cls, file: Path | None) -> Path | None:
        if file is not None:
            _refuse(file, why_host_is_foreign(file, ()))
        return file

    @model_validator(mode="after")
    def _encrypted_or_not_at_all(self) -> Self:
        if self.listen is not None and (self.certificate is None or self.private_key is None):
            raise ValueError(
                "listen needs `certificate` and `private_key`: other PCs get the page by TLS or not at all"
            )
        if self.listen is None and (self.certificate or self.private_key or self.names):
            raise ValueError(
                "certificate, private_key and names say how `listen` is reached; give that address, too"
            )
        return self


class EventsConfig(_Table):
    """What is sent elsewhere when a file is finished; nothing is, unless an address is given here."""

    webhook_url: str | None = Field(default=None, examples=["https://lims.example.org/scopewatch"])
    """Each finding, and changes of the agent's state, are sent as JSON by HTTP POST to this http(s) address."""
    mqtt_url: str | None = Field(default=None, examples=["mqtt://broker.example.org:1883/scope/findings"])
    """The same published by MQTT under this address, `mqtt://host:1883/topic` (needs `paho-mqtt`)."""

    @field_validator("webhook_url")
    @classmethod
    def _webhook(cls, url: str | None) -> str | None:
        return _address(url, ("http", "https"), "https://host/path", "SCOPEWATCH_WEBHOOK_TOKEN")

    @field_validator("mqtt_url")
    @classmethod
    def _mqtt(cls, url: str | None) -> str | None:
        example = "mqtt://host:1883/topic"
        given = _address(url, ("mqtt", "mqtts"), example, "SCOPEWATCH_MQTT_USER and SCOPEWATCH_MQTT_PASSWORD")
        if given is not None and (
            not urlsplit(given).path.strip("/") or any(sign in given for sign in "+#?")
        ):
            raise ValueError(f"names no topic to publish under; write it as {example}, without + # ?")
        if given is not None and find_spec("paho") is None:
            raise ValueError(
                "needs paho-mqtt, which is not installed: pip install paho-mqtt, or leave the key out"
            )
        return given


class InstrumentConfig(_Table):
    """What the files of this microscope do not say, or say wrongly; noted in every sidecar."""

    name: str | None = Field(default=None, examples=["Titan, room 12"])
    """How the laboratory calls the instrument."""
    microscope: str | None = Field(default=None, examples=["FEI Titan 80-300"])
    """Maker and type."""
    camera: str | None = Field(default=None, examples=["Gatan OneView"])
    """The camera or detector."""
    pixel_size_nm: dict[Magnification, PixelSizeNm] = Field(default_factory=dict, examples=[{"40000": 0.25}])
    """Pixel size in nm by indicated magnification ("40000" = 0.25); it replaces what such a file says. It is that
    of the pixels as they are saved: with another binning it is another."""

    @field_validator("pixel_size_nm")
    @classmethod
    def _each_magnification_once(cls, sizes: dict[str, float]) -> dict[str, float]:
        ordered = sorted(sizes, key=float)
        for lower, upper in pairwise(ordered):
            if are_one_magnification(float(lower), float(upper)):
                raise ValueError(f"{lower!r} and {upper!r} are one magnification; name it once")
        return sizes

    def profile(self) -> InstrumentProfile:
        """Return what the worker needs of it."""
        sizes = tuple((float(magnification), size) for magnification, size in self.pixel_size_nm.items())
        return InstrumentProfile(self.name, self.microscope, self.camera, sizes)


class RetentionConfig(_Table):
    """What is kept for how long; micrographs and sidecars are never removed."""

    heatmap_days: int | None = Field(default=None, ge=1, le=36500, examples=[365])
    """Heatmaps of files finished longer ago are removed, their sidecars stay; not given, they are kept."""
    log_files: int = Field(default=5, ge=1, le=100)
    """Rotated log files that are kept beside the current one."""
    log_mib: int = Field(default=10, ge=1, le=1024)
    """Size at which a log file is rotated."""


class AgentConfig(BaseModel):
    """Everything the live agent can be told. Paths are absolute once loaded."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        title="scopewatch agent configuration",
    )

    folders: tuple[UsablePath, ...] = ()
    """Watched with everything below them. They need not exist yet, and are never created."""
    output: UsablePath | None = Field(default=None, examples=["results"])
    """Mirror sidecars and heatmaps below this folder; not given, they lie beside the micrographs. On a server only
    where a watched folder names the same one, and never in a folder of the operating system."""
    model: str | None = Field(default=None, examples=["particle-shape"])
    """Name of a model in the store or the installation, or the path of one; not given, the default one."""
    include: tuple[Pattern, ...] = DEFAULT_INCLUDE
    """Patterns of file names that are micrographs; upper and lower case are the same."""
    exclude: tuple[Pattern, ...] = ()
    """Patterns of file names, or of the names of folders, that are left alone whatever `include` says."""
    quiet_seconds: float = Field(default=1.0, ge=0.05, le=600)
    """A file is read once its size and time have not changed for so long; longer where writers pause."""
    share_quiet_seconds: float = Field(default=3.0, ge=0.05, le=600)
    """The same for folders on a network share, where sizes and times arrive late."""
    gap_seconds: float = Field(default=10.0, ge=0, le=600)
    """A file with a sector of zeros must rest so long before it is believed: its writer may have reserved the
    whole length first. Pictures with black areas wait for it, too."""
    scan_seconds: float = Field(default=10.0, ge=0.1, le=3600)
    """How often the folders are looked over; between scans the system's change events are the hints."""
    cold_scan_seconds: float = Field(default=600.0, ge=0.1, le=86400)
    """How often each file is looked at in a folder where nothing was saved or changed for a while."""
    newest_first: bool = False
    """While a backlog is worked off, take the newest file first instead of the oldest."""
    wall_limit_seconds: float = Field(default=30.0, ge=1, le=3600)
    """A file that takes the worker longer than this (and longer than its size explains) is given up for the
    moment, and the worker replaced."""
    memory_limit_mib: int = Field(default=4096, ge=512, le=2**24)
    """The worker may not ask for more memory than this."""
    recycle_files: int = Field(default=1000, ge=1, le=10**9)
    """The worker is replaced by a fresh one after so many files."""
    low_priority: bool = True
    """Run below normal priority, with disk access only when nobody else wants it."""
    yield_above_cpu_percent: float | None = Field(default=None, ge=1, le=100, examples=[60])
    """Pause while other programs use more than this share of all processors; not given, never."""
    free_space_floor_mib: int = Field(default=1024, ge=0, le=2**30)
    """Nothing is written to a disk with less free space than this: the room belongs to the instrument."""
    stalled_seconds: float = Field(default=600.0, ge=1, le=10**9)
    """A file that stays incomplete for so long gets a sidecar that says so, until it changes."""
    snapshot_limit_mib: int = Field(default=512, ge=1, le=2**20)
    """Larger files are read frame by frame from the shared handle instead of whole into memory."""
    heatmap: bool = True
    """Whether to draw heatmaps."""
    trusted_keys: tuple[TrustedKey, ...] = ()
    """Public keys ("ed25519:...") of those who may sign models; once one is listed, no unsigned model is used
    but those that came with the installation."""
    state: UsablePath = Field(default_factory=state_folder, examples=["state"])
    """Where the journal, the status and the lock are kept: a local disk, never the share that is watched. Not
    given, it is that of SCOPEWATCH_STATE, else the user's (for the system's configuration: the system's) own."""
    page: PageConfig = PageConfig()
    events: EventsConfig = EventsConfig()
    instrument: InstrumentConfig = InstrumentConfig()
    retention: RetentionConfig = RetentionConfig()

    @field_validator("include")
    @classmethod
    def _includes_something(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        if not patterns:
            raise ValueError('must name at least one pattern, for example "*.dm3"')
        return patterns

    @field_validator("folders")
    @classmethod
    def _folders_once(cls, folders: tuple[Path, ...]) -> tuple[Path, ...]:
        once = tuple(dict.fromkeys(folders))
        for inner in once:
            for outer in once:
                if inner != outer and inner.is_relative_to(outer):
                    raise ValueError(f"{inner} lies in {outer}, which is watched with everything below it")
        return once

    # Folders are checked first; where they are wrong nobody knows which servers they name.
    @field_validator("output")
    @classmethod
    def _output_may_be_written(cls, output: Path | None, info: ValidationInfo) -> Path | None:
        if output is not None and "folders" in info.data:
            _refuse(output, why_no_place_for_files(output, info.data["folders"]))
        return output

    @field_validator("model")
    @classmethod
    def _model_may_be_reached(cls, model: str | None, info: ValidationInfo) -> str | None:
        if model is not None and "folders" in info.data:
            _refuse(model, why_host_is_foreign(model, info.data["folders"]))
        return model

    @field_validator("state")
    @classmethod
    def _state_is_local(cls, state: Path) -> Path:
        if unc_host(state) is not None:
            _refuse(state, "lies on a network share; the journal and its locks need a local disk")
        _refuse(state, why_no_place_for_files(state, ()))
        return state


def _refuse(path: object, why_not: str | None) -> None:
    if why_not is not None:
        raise ValueError(f"{path} {why_not}")


def _address(url: str | None, schemes: tuple[str, ...], example: str, secrets: str) -> str | None:
    """Check an address of events. What it is said to be never shows it: what is wrong in it may be a secret."""
    if url is None:
        return None
    try:
        parts = urlsplit(url)
        is_whole = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_whole = False
    if not is_whole or " " in url or not (url.isascii() and url.isprintable()):
        raise ValueError(f"is no address of this kind; write it as {example}")
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            f"holds a user or a password, which would stand in logs; put it into {secrets} (environment variables, "
            "or files named by these variables with _FILE at their end)"
        )
    return url
