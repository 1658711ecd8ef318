"""Fields of a model's config that change what a rank needs, and what the account does with each.

This is the one list of them: whoever counts a micro-batch asks `refused_setting` first, so that no
number is wrong in silence. docs/memory.md shows it, and a test sets each.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from clora.errors import CloraError


class CostError(CloraError):
    """The costs of a job cannot be counted."""


class MicroBatchError(CostError):
    """megatron-core cannot run a micro-batch of the job."""


class Treatment(StrEnum):
    """The account's answer to a field."""

    COUNTED = "counted"
    ASSUMED = "assumed"
    NO_CHANGE = "changes nothing"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Setting:
    """A field of megatron-core's `TransformerConfig`."""

    name: str
    treatment: Treatment
    effect: str
    """Its effect on a GPU, as the end of a sentence that begins with its name."""
    values: tuple[Any, ...] = ()
    """The values that are meant; () for each that is not false, nothing or one of `off`."""
    off: tuple[Any, ...] = ("none",)
    """Values with which the field does nothing."""
    without: str = ""
    """The value to write for a number without it; "" for false, or null where it is no flag."""

    def is_set(self, config: Any) -> bool:
        """Return whether a config has one of these values, for some layer at least."""
        # Other releases have fewer fields.
        value = getattr(config, self.name, None)
        found = value if isinstance(value, (list, tuple)) else [value]
        # An enum's name is what users write.
        words = [getattr(each, "name", each) for each in found]
        if self.values:
            return any(word in self.values for word in words)
        return any(word and word not in self.off for word in words)


_COUNTED, _ASSUMED, _NO_CHANGE, _REFUSED = Treatment

SETTINGS = (
    Setting("recompute_granularity", _COUNTED, "keeps less and computes parts of the forward again"),
    Setting("moe_layer_recompute", _COUNTED, "computes experts again"),
    Setting("activation_func_fp8_input_store", _COUNTED, "keeps the input of the activation in 8 bits"),
    Setting("cross_entropy_loss_fusion", _COUNTED, "with `te` writes the gradient of the logits into them"),
    Setting("moe_router_dtype", _COUNTED, "keeps probabilities in this dtype"),
    Setting("deallocate_pipeline_outputs", _COUNTED, "frees states when they are sent to the next stage"),
    Setting("microbatch_group_size_per_vp_stage", _COUNTED, "is the micro-batches that a chunk runs in a row"),
    Setting("tp_comm_overlap", _ASSUMED, "makes 12 buffers of one micro-batch's states outside of torch's allocator"),
    Setting("gradient_accumulation_fusion", _NO_CHANGE, "acts on weights of the base, which are frozen"),
    Setting("overlap_p2p_comm", _NO_CHANGE, "overlaps messages; as many micro-batches are in flight"),
    Setting("memory_efficient_layer_norm", _NO_CHANGE, "is of a norm that Transformer Engine's layers do not have"),
    Setting("disable_parameter_transpose_cache", _NO_CHANGE, "is of weights in 8 bits"),
    Setting("fp8", _REFUSED, "keeps inputs and copies of weights in 8 bits, some of them transposed"),
    Setting("fp4", _REFUSED, "keeps inputs and copies of weights in 4 bits"),
    Setting("distribute_saved_activations", _REFUSED, "splits the inputs of recomputed layers over tp"),
    Setting("cpu_offloading", _REFUSED, "moves activations to the CPU and back"),
    Setting("fine_grained_activation_offloading", _REFUSED, "moves activations to the CPU and back"),
    Setting("cuda_graph_impl", _REFUSED, "keeps the memory of captured graphs in pools of their own", without="none"),
    Setting("enable_cuda_graph", _REFUSED, "keeps the memory of captured graphs in pools of their own"),
    Setting("external_cuda_graph", _REFUSED, "keeps the memory of captured graphs in pools of their own"),
    Setting(
        "cp_comm_type",
        _REFUSED,
        "exchanges heads within a group and keys between groups",
        values=("a2a+p2p",),
        without="p2p",
    ),
    Setting("hybrid_context_parallel", _REFUSED, "chooses cp by the lengths of the sequences of each step"),
    Setting("overlap_moe_expert_parallel_comm", _REFUSED, "runs a forward and a backward together"),
    Setting("num_microbatches_with_partial_activation_checkpoints", _REFUSED, "recomputes some micro-batches only"),
    Setting("overlap_dispatch_backward_with_experts_wgrad", _REFUSED, "computes gradients of experts later"),
    Setting("moe_paged_stash", _REFUSED, "keeps the inputs of experts in pages, partly on the CPU"),
    Setting("moe_expert_rank_capacity_factor", _REFUSED, "limits the tokens that all experts of a rank get"),
    Setting("moe_dispatch_fwd_dtype", _REFUSED, "sends tokens to experts in 8 bits", off=("bf16",), without="bf16"),
    Setting(
        "gtp_weight_remat_size", _REFUSED, "splits weights and gathers them when they are used", off=(1,), without="1"
    ),
    Setting(
        "expert_gtp_weight_remat_size",
        _REFUSED,
        "splits weights and gathers them when they are used",
        off=(1,),
        without="1",
    ),
    Setting(
        "attention_backend", _REFUSED, "keeps the scores of all tokens", values=("unfused", "local"), without="auto"
    ),
    Setting("symmetric_ar_type", _REFUSED, "reduces in buffers that all ranks map"),
    Setting("use_kitchen", _REFUSED, "computes with another library"),
    Setting("use_kitchen_attention", _REFUSED, "computes with another library"),
    Setting("moe_router_fusion", _REFUSED, "routes in one kernel, which runs on a GPU only"),
    Setting("use_te_activation_func", _REFUSED, "activates in a kernel that runs on a GPU only"),
    Setting("use_transformer_engine_op_fuser", _REFUSED, "computes layers in kernels that run on a GPU only"),
)


def refused_setting(config: Any) -> str | None:
    """Return a sentence about a field of `config` that the account does not know; None if there is
    none.
    """
    for setting in SETTINGS:
        if setting.treatment is Treatment.REFUSED and setting.is_set(config):
            value = getattr(config, setting.name)
            shown = getattr(value, "name", value)
            without = setting.without or ("false" if value is True else "null")
            return (
                f"it has {setting.name} = {shown}, which {setting.effect}. The account does not know how much that is. "
                f"A number without it: --set model.{setting.name}={without}."
            )
    return None
