"""`ModelKind`: the kinds of models that are built, and what each of them cannot do."""

from __future__ import annotations

from enum import StrEnum


class ModelKind(StrEnum):
    """The kind of model that is built. A plan stores the value as `model.family`."""

    GPT = "gpt"
    """megatron-core's `GPTModel`."""
    GEMMA2 = "gemma2"
    """`GPTModel` with Gemma 2's layers, which megatron-core does not have."""
    HYBRID = "hybrid"
    """megatron-core's `HybridModel` with the layers of a `GPTModel`: attention and MLP are two."""
    MAMBA = "mamba"
    """megatron-core's `MambaModel`."""
    USER_FUNCTION = "callable"
    """The module that a user's function returns, of any kind."""
    BRIDGE = "bridge"
    """A model of any kind that Megatron-Bridge builds."""

    @property
    def blocks_per_layer(self) -> int:
        """Layers of megatron-core that one layer of `num_layers` is built as."""
        return 2 if self is ModelKind.HYBRID else 1

    @property
    def has_interleaved_pipeline(self) -> bool:
        """True if a rank can hold several chunks (vpp > 1). `MambaStack` asserts that vpp is 1."""
        return self is not ModelKind.MAMBA

    @property
    def has_context_parallel(self) -> bool:
        """True if attention can be split over cp ranks. Transformer Engine's caps no scores, and
        megatron-core's own, which Gemma 2 takes in its place, asserts that cp is 1.
        """
        return self is not ModelKind.GEMMA2

    @property
    def has_full_recompute(self) -> bool:
        """True if `recompute_granularity = "full"` has an effect. `MambaStack` ignores it; its
        attention and MLP layers know the selective one.
        """
        return self is not ModelKind.MAMBA

    @property
    def has_layer_pattern(self) -> bool:
        """True if `hybrid_override_pattern` names the kind of every layer by a letter. Then
        megatron-core does not read `moe_layer_freq`.
        """
        return self is ModelKind.MAMBA
