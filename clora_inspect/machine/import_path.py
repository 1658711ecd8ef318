"""Take the current folder out of the places where Python looks for modules.

`python -m clora_inspect` puts it before the standard library, and so does an empty entry of
PYTHONPATH. Then a `torch.py` or a `queue.py` in somebody's repository would run. User code is found
by `sources.user_modules` instead, after everything else.

Only modules that every Python has imported at its start are imported here: a `typing.py` in the
current folder would be found as well.
"""

from __future__ import annotations

import os
import sys

_UNNAMED = ("", ".")
"""Entries of a path that mean the current folder, whatever it is."""

_VARIABLES = ("PYTHONPATH", "PYTHONSAFEPATH")

_before: dict[str, str | None] = {}
"""The values of these variables outside the block; empty outside of it."""


def environment_outside() -> dict[str, str]:
    """Return the environment outside the block, for a command of the user's: a script finds the
    modules beside it.
    """
    environment = {**os.environ, **{name: value for name, value in _before.items() if value is not None}}
    return {name: value for name, value in environment.items() if _before.get(name, value) is not None}


class WithoutCurrentFolder:
    """A block in which nothing is imported from the current folder, by Python's children neither.

    A folder that PYTHONPATH names with its whole path stays.
    """

    def __enter__(self) -> None:
        self._path = list(sys.path)
        self._environment = {name: os.environ.get(name) for name in _VARIABLES}
        _before.update(self._environment)
        here = _current_folder()
        named = [entry for entry in _variable() if entry not in _UNNAMED]
        kept = _named(here, is_named=here in named)
        if here == _own_folder() and here not in kept:
            # Somebody works in a checkout of ours that is not installed. It is not found elsewhere,
            # and its children do not find it either if they leave the current folder out.
            sys.path[:] = [*kept, here]
            return
        sys.path[:] = kept
        os.environ["PYTHONSAFEPATH"] = "1"
        _set("PYTHONPATH", os.pathsep.join(named) or None)

    def __exit__(self, *_error: object) -> None:
        sys.path[:] = self._path
        _before.clear()
        for name, value in self._environment.items():
            _set(name, value)


def _named(here: str, *, is_named: bool) -> list[str]:
    """Return `sys.path` without the entries that stand for the current folder."""
    # Python writes the whole path for an empty entry. Such entries come first: when an installation
    # is in the current folder, its entry comes later and stays.
    unnamed = int(_is_module_run(here)) + (0 if is_named else sum(entry in _UNNAMED for entry in _variable()))
    kept = []
    for entry in sys.path:
        if entry == here and unnamed > 0:
            unnamed -= 1
        elif entry not in _UNNAMED:
            kept.append(entry)
    return kept


def _is_module_run(here: str) -> bool:
    """Return whether `python -m` has put the current folder first."""
    main = sys.modules.get("__main__")
    return main is not None and main.__spec__ is not None and not sys.flags.safe_path and sys.path[:1] == [here]


def _variable() -> list[str]:
    value = os.environ.get("PYTHONPATH", "")
    return value.split(os.pathsep) if value else []


def _set(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


# pathlib is not imported yet, so the functions of os.path do its work.


def _current_folder() -> str:
    try:
        return os.getcwd()  # noqa: PTH109
    except FileNotFoundError:  # somebody deleted it
        return ""


def _own_folder() -> str:
    """Return the folder that our packages are in."""
    return os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # noqa: PTH100, PTH120
