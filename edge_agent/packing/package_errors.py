"""Why an offline archive was not made."""

from __future__ import annotations


class PackageRefused(Exception):
    """What was asked for cannot be packed; the message names the file or option, what was seen, what to do."""


class PackageFailed(Exception):
    """The work failed although it was rightly asked for; the message says at what, and what to do."""
