"""An HDF5 file that may come from anyone: looked through before Keras reads it.

HDF5 can point to other files (external links, external storage, virtual data sets), and can declare arrays far
larger than what is stored; a file of weights needs none of that (CVE-2025-9905, CVE-2026-1669 and their kin).
Only this module opens HDF5 files, and knows which of their features are plain.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from trainer.importing.foreign_file import SIZE_LIMIT_BYTES, ForeignModelError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MOST_OBJECTS: Final = 100_000
_DEEPEST: Final = 64
_MOST_EXPANSION: Final = 200
"""Declared bytes to stored bytes: compressed weights stay below 10, an array of its fill value alone does not."""
_SMALL_BYTES: Final = 2**20
_PLAIN_FILTERS: Final = frozenset({1, 2, 3})
"""Deflate, shuffle, checksum, by HDF5's numbers; any other may be code that HDF5 looks for on this machine."""


@contextmanager
def plain_hdf5(path: Path, source: Path) -> Iterator[Any]:
    """Open `path` for reading, after everything in it was found plain; `source` is what messages name.

    Raises:
        ForeignModelError: damaged, cut off, or with links to other places, foreign filters or absurd sizes.

    """
    import h5py

    try:
        file = h5py.File(path, "r", locking=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise ForeignModelError(
            f"{source}: an HDF5 file that is damaged or cut off ({_short(error)}); copy it again"
        ) from error
    with file:
        try:
            _check_group(file, source)
        except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
            raise ForeignModelError(
                f"{source}: an HDF5 file that is damaged ({_short(error)}); copy it again"
            ) from error
        yield file


def text_attribute(file: Any, name: str) -> str | None:  # noqa: ANN401 - h5py has no types
    """A text attribute of the file itself, or None where it has no such text."""
    value = file.attrs.get(name)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else None


def _check_group(file: Any, source: Path) -> None:  # noqa: ANN401
    import h5py

    waiting, seen, declared = [("", file, 0)], 0, 0
    while waiting:
        path, group, depth = waiting.pop()
        if depth > _DEEPEST:
            raise ForeignModelError(f"{source}: its groups are nested deeper than {_DEEPEST}; no model is")
        for name in group:
            seen += 1
            inside = f"{path}/{name}"
            _check_link(group, name, f"{source}: {inside}")
            item = group[name]
            if isinstance(item, h5py.Group):
                waiting.append((inside, item, depth + 1))
            elif isinstance(item, h5py.Dataset):
                declared += _check_array(item, f"{source}: {inside}")
            if seen > _MOST_OBJECTS or declared > SIZE_LIMIT_BYTES:
                raise ForeignModelError(
                    f"{source}: holds {seen} objects of {declared / 2**30:.1f} GiB in all; no model that is "
                    "imported does"
                )


def _check_link(group: Any, name: str, where: str) -> None:  # noqa: ANN401
    import h5py

    link = group.get(name, getlink=True)
    if isinstance(link, h5py.ExternalLink):
        raise ForeignModelError(
            f"{where} is a link to another file ({link.filename}); that is never followed"
        )
    if isinstance(link, h5py.SoftLink):
        raise ForeignModelError(f"{where} is a soft link (to {link.path}); weights stand in the file itself")


def _check_array(item: Any, where: str) -> int:  # noqa: ANN401
    """Bytes that an array says it has; ForeignModelError where it is not plainly stored in this file."""
    if item.external:
        raise ForeignModelError(
            f"{where} keeps its values in another file ({item.external[0][0]}); that is never read"
        )
    if item.is_virtual:
        raise ForeignModelError(
            f"{where} is put together from other files (a virtual data set); that is never read"
        )
    plan = item.id.get_create_plist()
    filters = {int(plan.get_filter(index)[0]) for index in range(plan.get_nfilters())} - _PLAIN_FILTERS
    if filters:
        raise ForeignModelError(
            f"{where} is stored through a filter that is not known here (number {min(filters)})"
        )
    size = math.prod(item.shape or (0,)) * int(item.dtype.itemsize)
    stored = int(item.id.get_storage_size())
    if size > _SMALL_BYTES and size > _MOST_EXPANSION * stored:
        raise ForeignModelError(
            f"{where} declares {size / 2**20:.0f} MiB and stores {stored} bytes of them; the file is not "
            "complete, or a trap"
        )
    return size


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
