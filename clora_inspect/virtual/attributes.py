"""Replace attributes of foreign objects for a while, and put them back whatever happens. So with
the environment.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_ABSENT: Final = object()


@contextmanager
def replaced(target: object, attributes: Mapping[str, object]) -> Iterator[None]:
    """Set `attributes` on `target`; on exit every one of them is as it was, absent ones are absent
    again.

    What `target` itself held is what comes back, not what it inherited: a class method that was
    inherited is deleted.
    """
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
    """Give the environment variables back as they were, whatever was set or deleted meanwhile."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
