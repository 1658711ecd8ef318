"""The errors that a user of clora can cause.

All derive from `CloraError`. There is one class per reason, and every message says what is wrong,
where, with which numbers, and what to write instead. The functions at the end keep messages short
and on one line.
"""

from __future__ import annotations


class CloraError(ValueError):
    """Base class of every mistake that a user can correct."""


class LoRAConfigError(CloraError):
    """A field of `CanonicalLoRA` has an invalid value."""


class TargetError(CloraError):
    """A target or exclusion can never match, such as the fused `linear_qkv`."""


class UnmatchedTargetError(TargetError):
    """A target matches no module of the whole model."""


class NotAdaptableError(CloraError):
    """A target matches a module that LoRA cannot adapt: an embedding, a norm, a convolution."""


class GeometryError(CloraError):
    """The shapes do not fit the layout: tp, etp or moe_router_topk does not divide a dim."""


class LayoutError(CloraError):
    """The model or the cluster cannot have this parallel layout."""


class ModelError(CloraError):
    """A model description cannot be read or built: unknown architecture, missing or contradicting
    fields.
    """


class SurgeryError(CloraError):
    """A plan cannot be carried out on this model; the model is as it was."""


class AlreadyAdaptedError(SurgeryError):
    """The model has adapters already, and adapters never nest."""


class DeviceError(CloraError):
    """The requested device, or the package that drives it, is missing on this machine."""


class CheckpointError(CloraError):
    """A checkpoint of adapters cannot be written, is damaged, or holds other adapters; the model is
    as it was.
    """


class MergeError(CloraError):
    """Adapters cannot be folded into the base weights, or are in them already; nothing was
    changed.
    """


class HFAdapterError(CloraError):
    """A Hugging Face PEFT folder cannot hold the adapters, or cannot be written or read; the model
    is as it was.
    """


class FingerprintError(CloraError):
    """There is no fingerprint of these adapters: it is not known, or cannot be, what they are."""


def short(value: object) -> str:
    """Return how a message shows `value`: as Python writes it, cut when that is long."""
    # Python refuses to write an integer of some thousand digits.
    if isinstance(value, int) and value.bit_length() > 256:
        return f"a number of about {round(value.bit_length() * 0.30103):,} digits"
    try:
        return cut(repr(value), 80)
    except ValueError:  # such an integer in a list
        return f"a {type(value).__name__}"


def cut(text: str, longest: int = 60) -> str:
    """Return `text`; of one with more than `longest` characters the beginning and an ellipsis."""
    return text if len(text) <= longest else f"{text[:longest]}..."


def one_line(error: BaseException) -> str:
    """Return the message of `error` on one line: those of torch and megatron-core have several."""
    return " ".join(str(error).split())


def described(error: BaseException, longest: int | None = None) -> str:
    """Return the class of `error`, and at most `longest` characters of its message on one line."""
    return f"{type(error).__name__}: {one_line(error)[:longest] or 'no message'}"
