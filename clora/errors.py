"""Every error a user can cause. One base class, one reason per subclass; the message shows the fix."""

from __future__ import annotations


class CloraError(ValueError):
    """Base of all user mistakes: what happened, where, the numbers, and what to write instead."""


class LoRAConfigError(CloraError):
    """A field of `CanonicalLoRA` has a value that cannot mean anything."""


class TargetError(CloraError):
    """A target (or exclude) string is not one that can ever be right, such as a fused `linear_qkv`."""


class UnmatchedTargetError(TargetError):
    """A target that the user wrote matches no module of the whole job."""


class NotAdaptableError(CloraError):
    """A target hits a module that has no LoRA form: an embedding, a norm, a convolution."""


class GeometryError(CloraError):
    """A rank (`dim`) does not fit the layout: not divisible by tp, etp or the router's topk."""


class LayoutError(CloraError):
    """A parallel layout that the model or the cluster cannot have."""


class ModelError(CloraError):
    """A model description that cannot be read or built: unknown architecture, missing or
    contradicting fields.
    """


class SurgeryError(CloraError):
    """A plan cannot be carried out on this model: it is of another one, or the model is in no state
    to be adapted.
    """


class AlreadyAdaptedError(SurgeryError):
    """The model has adapters already, and adapters never nest."""


class DeviceError(CloraError):
    """The device that was asked for is not on this machine, or the package that drives it is
    missing.
    """


class CheckpointError(CloraError):
    """A checkpoint of adapters that cannot be written, or is damaged or of other adapters; the
    model is as it was.
    """


class MergeError(CloraError):
    """Adapters that cannot be folded into the base's weights, or that are in them already; nothing
    was changed.
    """


class HFAdapterError(CloraError):
    """An adapter that Hugging Face PEFT cannot hold, or an adapter folder that cannot be written or
    read; the model is as it was.
    """
