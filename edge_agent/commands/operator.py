"""The command `page`: the operator's page of the running agent, in a browser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from edge_agent.commands.options import ConfigOption  # noqa: TC001 - Typer reads the annotations
from edge_agent.terminal import say
from edge_agent.verdicts import CommandFailed

if TYPE_CHECKING:
    from pathlib import Path


def page(
    only_print: Annotated[
        bool, typer.Option("--print", help="Print the address with its key, and open nothing.")
    ] = False,
    new_key: Annotated[
        bool, typer.Option("--new-key", help="Make another key first: whoever is signed in is so no more.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Open the page of the running agent in a browser, signed in."""
    from edge_agent.config import default_config_file
    from edge_agent.config_file import state_named
    from edge_agent.page.opening import address_with_key, open_page, plain_address
    from edge_agent.page.page_key import new_key as make_key

    state = state_named(config or default_config_file())
    word = _word_of(state)
    if new_key:
        make_key(state)
    if only_print or not open_page(word, state):
        say(address_with_key(word, state))
    else:
        say(f"{plain_address(word)} is opened in the browser (--print gives the address with its key)")


def _word_of(state: Path) -> str:
    """Return the page's address. Raises CommandFailed where there is none."""
    from edge_agent.page.opening import is_up
    from edge_agent.status import running_status

    try:
        numbers = running_status(state)
    except ValueError as error:
        raise CommandFailed(str(error)) from error
    if numbers is None:
        raise CommandFailed(f"no agent is running on the state folder {state}")
    if numbers.page is None:
        raise CommandFailed("the page of the running agent is switched off (page.enabled)")
    if not is_up(numbers.page):
        raise CommandFailed(f"the running agent has no page: {numbers.page}")
    return numbers.page
