"""Commands about models: `check`, and the group `models`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path  # noqa: TC003 - Typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_agent.commands.options import (
    ConfigOption,
    JsonOption,
    ModelOption,
    config_in_force,
    print_json,
)
from edge_agent.terminal import say
from edge_agent.verdicts import EXIT_FAILED, CommandFailed

if TYPE_CHECKING:
    from edge_agent.config import AgentConfig
    from edge_agent.keeping.model_store import Chosen, ModelStore
    from edge_agent.keeping.store_record import Accepted, StoreRecord
    from edge_agent.model_bundle import Bundle

app = typer.Typer(help="The models on this PC, and which one answers.", no_args_is_help=True)
_Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False)]


def check(model: ModelOption = None, config: ConfigOption = None) -> None:
    """Verify a model's files and replay its golden cases on this PC."""
    from edge_agent.classifier import Classifier
    from edge_agent.model_bundle import BundleRefused

    settings, store = _store(config, model)
    chosen = store.chosen(settings.model)
    if chosen.note is not None:
        say(chosen.note, sys.stderr)
    try:
        bundle = _opened(chosen, settings)
        replay = Classifier(bundle).replay_golden()
    except BundleRefused as error:
        raise CommandFailed(str(error)) from error
    signed = f", signed by {bundle.signed_by}" if bundle.signed_by else ""
    say(
        f"{bundle.path}: {bundle.manifest.name} {bundle.manifest.version}, every file as its manifest says{signed}"
    )
    verdict = "passed" if replay.passed else "FAILED"
    apart = f"{replay.probabilities:.1e} in probabilities, {replay.cam:.1e} in cam"
    if bundle.manifest.tensors.novelty is not None:
        apart += f", {replay.novelty:.1e} in novelty"
    say(f"golden replay of {replay.cases} cases {verdict}: at most {apart}, {replay.tolerance:.1e} allowed")
    if not replay.passed:
        raise typer.Exit(EXIT_FAILED)


@app.command("add")
def models_add(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", show_default=False)],
    config: ConfigOption = None,
) -> None:
    """Verify a bundle (its folder, or a ZIP of it) on this PC and keep a copy; `models use` lets it answer."""
    from edge_agent.keeping.model_intake import add

    settings, store = _store(config)
    _require_owner(settings.state)
    _be_a_quiet_guest(settings)
    added = add(store, bundle.absolute(), settings.trusted_keys)
    entry = added.entry
    for name in added.left_out:
        say(f"left out: {name}, which its manifest does not name", sys.stderr)
    replay = max(entry.replay.probabilities, entry.replay.cam, entry.replay.novelty)
    say(
        f"{entry.folder}: {'verified again' if added.was_there else 'added'}, {entry.vouched}; golden replay of "
        f"{entry.replay.cases} cases off by at most {replay:.1e}, {entry.replay.tolerance:.0e} allowed"
    )
    say(f"next: edge-agent models use {entry.folder}", sys.stderr)


@app.command("use")
def models_use(name: _Name, config: ConfigOption = None) -> None:
    """Verify a model anew and let it answer; a running agent takes it up by itself."""
    from edge_agent.keeping.model_intake import use

    settings, store = _store(config)
    _require_owner(settings.state)
    _be_a_quiet_guest(settings)
    _say_current(use(store, name, settings.trusted_keys), settings)


@app.command("rollback")
def models_rollback(config: ConfigOption = None) -> None:
    """Let the model answer again that did before; may be repeated."""
    from edge_agent.keeping.model_intake import roll_back

    settings, store = _store(config)
    _require_owner(settings.state)
    _be_a_quiet_guest(settings)
    _say_current(roll_back(store, settings.trusted_keys), settings)


@app.command("remove")
def models_remove(name: _Name, config: ConfigOption = None) -> None:
    """Delete a model that is not the current one from this PC's store."""
    from edge_agent.keeping.store_record import StoreRefused

    settings, store = _store(config)
    _require_owner(settings.state)
    entry = store.record().named(name)
    if entry is None:
        raise StoreRefused(f"{name}: is not in the store {store.folder}")
    store.remove(entry.folder)
    say(f"{entry.folder}: removed")


@app.command("list")
def models_list(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """List the models of this PC: shipped ones and those that were added; the current one is marked."""
    from edge_agent.model_names import shipped_models

    settings, store = _store(config)
    chosen, record = store.chosen(settings.model), store.record()
    rows = [_shipped_row(folder, chosen) for folder in shipped_models()]
    rows += [_store_row(entry, record, chosen) for entry in record.accepted]
    if as_json:
        print_json(
            json.dumps({"schema": "scopewatch.models/1", "note": chosen.note, "models": rows}, indent=1)
        )
        return
    if chosen.note is not None:
        say(chosen.note, sys.stderr)
    if not rows:
        raise CommandFailed("no model is shipped with this installation; add one with models add BUNDLE")
    for row in rows:
        say(_row_text(row))


@app.command("show")
def models_show(
    name: Annotated[str, typer.Argument(metavar="NAME|PATH", show_default=False)], config: ConfigOption = None
) -> None:
    """Verify a model and print its manifest."""
    from edge_agent.model_bundle import manifest_json

    settings, store = _store(config)
    entry = store.record().named(name)
    if entry is not None and entry.refused is not None:
        say(f"refused since {entry.refused.at:%Y-%m-%d %H:%M} UTC: {entry.refused.reason}", sys.stderr)
        chosen = store.accepted_as(entry)
    else:
        chosen = store.chosen(name)
    bundle = _opened(chosen, settings)
    vouched = f", signed by {bundle.signed_by}" if bundle.signed_by else ""
    say(f"{bundle.path}{vouched}", sys.stderr)
    print_json(manifest_json(bundle.manifest).decode())


def _store(config: Path | None, model: str | None = None) -> tuple[AgentConfig, ModelStore]:
    from edge_agent.config import configure
    from edge_agent.keeping.model_store import ModelStore

    settings = configure(config_in_force(config), model=model)
    return settings, ModelStore(settings.state)


def _require_owner(state: Path) -> None:
    """Refuse root where the state folder is another account's: its agent could not change what root wrote there.

    Under /var/lib/private only root comes through (systemd's DynamicUser): there it may.
    """
    if sys.platform == "win32" or os.geteuid() != 0 or not state.exists():
        return
    import pwd

    from edge_agent.keeping.store_record import StoreRefused

    try:
        owner = pwd.getpwuid(state.stat().st_uid).pw_name
    except KeyError:
        return
    if owner != "root" and not state.resolve().is_relative_to("/var/lib/private"):
        raise StoreRefused(
            f"{state}: belongs to {owner}; run this as that account: sudo -u {owner} edge-agent ..."
        )


def _be_a_quiet_guest(settings: AgentConfig) -> None:
    """What a bundle asks for is not known yet, and the PC may be acquiring: the worker's limits hold here, too."""
    from edge_agent.processes import process_limits

    if settings.low_priority:
        process_limits.lower_priority()
    process_limits.limit_memory(settings.memory_limit_mib)


def _opened(chosen: Chosen, settings: AgentConfig) -> Bundle:
    from edge_agent.model_bundle import open_bundle

    return open_bundle(
        chosen.model, manifest_sha256=chosen.manifest_sha256, trusted_keys=settings.trusted_keys
    )


def _say_current(chosen: Chosen, settings: AgentConfig) -> None:
    say(f"current: {chosen.title}; a running agent takes it up by itself")
    if settings.model is not None:
        say(
            f"the configuration asks for {settings.model}, which goes before; take `model` out of it",
            sys.stderr,
        )


def _shipped_row(folder: Path, chosen: Chosen) -> dict[str, Any]:
    from edge_agent.model_bundle import read_manifest
    from edge_agent.model_names import shipped_models

    manifest, default = read_manifest(folder), folder == shipped_models()[-1]
    return {
        "name": manifest.name,
        "version": manifest.version,
        "origin": "shipped",
        "current": chosen.model == str(folder) or (chosen.model is None and default),
        "default": default,
        "labels": list(manifest.labels),
        "signed_by": None,
        "refused": None,
    }


def _store_row(entry: Accepted, record: StoreRecord, chosen: Chosen) -> dict[str, Any]:
    values = entry.model_dump(mode="json")
    return {
        "name": entry.name,
        "version": entry.version,
        "origin": "store",
        "current": chosen.manifest_sha256 == entry.manifest_sha256,
        "default": False,
        "earlier": any(one.name == entry.folder for one in record.earlier),
        **{key: values[key] for key in values if key not in ("name", "version")},
    }


def _row_text(row: dict[str, Any]) -> str:
    marks = [mark for mark in ("current", "default") if row[mark]]
    vouched = f"signed by {row['signed_by']}" if row["signed_by"] else "unsigned"
    origin = "shipped" if row["origin"] == "shipped" else vouched
    words = [f"{row['name']}-{row['version']}", ", ".join(row["labels"]), origin]
    words += [f"({', '.join(marks)})"] if marks else []
    if row["refused"]:
        words.append(f"REFUSED {row['refused']['at'][:16].replace('T', ' ')} UTC: {row['refused']['reason']}")
    return "  ".join(words)
