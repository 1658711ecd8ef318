"""Failures while foreign code makes a model: megatron-core's, or the user's."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from clora.errors import CloraError, ModelError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator


class BuildError(CloraError):
    """The user's model function raised, or did not return a model; or a package that it needs is
    missing.
    """


@contextmanager
def refusals_of_megatron(what: str, fields: Collection[str] = ()) -> Iterator[None]:
    """Run a block in which megatron-core may refuse numbers, with one of many exceptions.

    Args:
        what: the start of the message.
        fields: of its config. Options of a training script that set one of them are named after it.

    Raises:
        ModelError: megatron-core refused; the message is `what` and megatron-core's own words.
    """
    try:
        yield
    except CloraError:
        # It is a ValueError as well, and needs no second message around it.
        raise
    except AttributeError as error:
        if not type(error.obj).__name__.endswith("TransformerConfig"):
            raise
        # Some model classes read attributes that the config class does not declare.
        raise ModelError(f"{what}: nothing sets {error.name}. Add --set model.{error.name}=VALUE.") from error
    except KeyError as error:
        # It looks names up in its enumerations.
        raise ModelError(f"{what}: it does not know {one_line(error)}") from error
    except (ValueError, TypeError, AssertionError, RuntimeError, ArithmeticError, IndexError) as error:
        raise ModelError(f"{what}: {_with_fields(one_line(error), fields) or type(error).__name__}") from error
    except Exception as error:
        # megatron-core raises Exception itself for a normalization that it does not have. Other
        # classes are bugs, of ours or of megatron-core.
        if type(error) is not Exception:
            raise
        raise ModelError(f"{what}: {one_line(error)}") from error


def _with_fields(words: str, fields: Collection[str]) -> str:
    """Name fields, which a job can set, in place of options of megatron-core's training scripts."""

    def field_of(option: re.Match[str]) -> str:
        name = option[1].replace("-", "_")
        return f"model.{name}" if name in fields else option[0]

    return re.sub(r"--([a-z][a-z0-9-]*)", field_of, words)


def one_line(error: Exception) -> str:
    """Return the text of an exception without line breaks, and without torch's stack of C++."""
    return " ".join(str(error).partition("Exception raised from")[0].split())
