"""Replace attributes of foreign modules and classes inside a `with`, and restore them on exit."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_ABSENT: Final = object()
"""Marks an attribute that the object did not have: None could be the attribute's value."""


@contextmanager
def replaced(target: object, attributes: Mapping[str, object]) -> Iterator[None]:
    """Set `attributes` on `target`, a module or a class, and restore them on exit.

    An attribute that `target` did not have is deleted on exit, also if the body raised.
    """
    # vars() and not getattr(): an inherited method must come back as inherited. Setting what
    # getattr() finds would leave a copy of the base class's method on the subclass.
    own: dict[str, Any] = vars(target)
    before = {name: own.get(name, _ABSENT) for name in attributes}
    try:
        for name, value in attributes.items():
            setattr(target, name, value)
        yield
    finally:
        for name, value in before.items():
            if value is _ABSENT:
                delattr(target, name)
            else:
                setattr(target, name, value)


@contextmanager
def environment_restored() -> Iterator[None]:
    """Restore all environment variables on exit: changed, deleted and new ones."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
