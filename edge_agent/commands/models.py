"""Commands about models: `check`, and the group `models`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from edge_agent.commands.options import ModelOption, print_json
from edge_agent.terminal import say
from edge_agent.verdicts import EXIT_FAILED, CommandFailed

app = typer.Typer(help="The models that can be used.", no_args_is_help=True)


def check(model: ModelOption = None) -> None:
    """Verify a model's files and replay its golden cases on this PC."""
    from edge_agent.classifier import Classifier
    from edge_agent.model_bundle import BundleRefused, open_bundle

    try:
        bundle = open_bundle(model)
        replay = Classifier(bundle).replay_golden()
    except BundleRefused as error:
        raise CommandFailed(str(error)) from error
    say(f"{bundle.path}: {bundle.manifest.name} {bundle.manifest.version}, every file as its manifest says")
    verdict = "passed" if replay.passed else "FAILED"
    apart = f"{replay.probabilities:.1e} in probabilities, {replay.cam:.1e} in cam"
    if bundle.manifest.tensors.novelty is not None:
        apart += f", {replay.novelty:.1e} in novelty"
    say(f"golden replay of {replay.cases} cases {verdict}: at most {apart}, {replay.tolerance:.1e} allowed")
    if not replay.passed:
        raise typer.Exit(EXIT_FAILED)


@app.command("list")
def models_list() -> None:
    """List the shipped models; the last one is the default."""
    from edge_agent.model_bundle import read_manifest, shipped_models

    shipped = shipped_models()
    for folder in shipped:
        manifest = read_manifest(folder)
        default = "  (default)" if folder == shipped[-1] else ""
        say(f"{folder.name}  {', '.join(manifest.labels)}{default}")
    if not shipped:
        raise CommandFailed("no model is shipped with this installation; give a bundle with --model PATH")


@app.command("show")
def models_show(name: Annotated[str, typer.Argument(metavar="NAME|PATH", show_default=False)]) -> None:
    """Verify a model and print its manifest."""
    from edge_agent.model_bundle import manifest_json, open_bundle

    bundle = open_bundle(name)
    say(str(bundle.path), sys.stderr)
    print_json(manifest_json(bundle.manifest).decode())
