"""Surgeries that are broken on purpose, one fault each: mistakes that the proofs must find."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch

from clora.adapters import Adapter, Dropout
from clora_inspect.verify.implementation.clora import Clora

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from clora_inspect.verify.implementation.protocol import Implementation

Patch = tuple[Any, str, Any]


@contextmanager
def broken(mutation: str) -> Iterator[Implementation]:
    """Put the fault called `mutation` into the library; yield the implementation to prove."""
    made = FAULTS[mutation]()
    if isinstance(made, Clora):
        yield made
        return
    with ExitStack() as stack:
        for target, name, value in made if isinstance(made, list) else [made]:
            stack.enter_context(patch.object(target, name, value))
        yield Clora()


class After(Clora):
    """Carries out the surgery, then spoils the model."""

    def __init__(self, spoil: Callable[[Any], None]) -> None:
        self._spoil = spoil

    def apply(self, chunks: list[Any], lora: Any) -> list[Any]:
        super().apply(chunks, lora)
        with torch.no_grad():
            self._spoil(chunks[0])
        return chunks


class OtherTargets(Clora):
    """Adapts other modules than it was told to, or with other fields."""

    def __init__(self, **fields: Any) -> None:
        self._fields = fields

    def apply(self, chunks: list[Any], lora: Any) -> list[Any]:
        return super().apply(chunks, dataclasses.replace(lora, **self._fields))


class Frozen(Clora):
    """Freezes the adapters when it is applied a second time."""

    def apply_again(self, chunks: list[Any], lora: Any) -> list[Any]:
        chunks[0].requires_grad_(lora is None)
        return chunks


class Forgetful(Clora):
    """Loads A and leaves B as it was."""

    def load(self, chunks: list[Any], folder: Path) -> None:
        kept = {name: p.detach().clone() for name, p in chunks[0].named_parameters() if "linear_out" in name}
        super().load(chunks, folder)
        with torch.no_grad():
            for name, parameter in chunks[0].named_parameters():
                if name in kept:
                    parameter.copy_(kept[name])


class LosesAlpha(Clora):
    """Loads the factors, with the scale that an adapter has by default."""

    def load(self, chunks: list[Any], folder: Path) -> None:
        super().load(chunks, folder)
        for module in chunks[0].modules():
            if isinstance(module, Adapter):
                module.alpha = 32


def _layer(model: Any, number: int = 0) -> Any:
    return model.decoder.layers[number]


def _swapped_gate_and_up() -> Patch:
    from clora import linears
    from clora.fused import FusedLayout, fc1_layout

    def swapped(**facts: int) -> FusedLayout:
        layout = fc1_layout(**facts)
        return FusedLayout(layout.num_blocks, dict(reversed(layout.rows_per_block.items())))

    return linears, "fc1_layout", swapped


def _swapped_key_and_value() -> Patch:
    from clora import linears
    from clora.fused import FusedLayout, qkv_layout

    def swapped(**facts: Any) -> FusedLayout:
        rows = qkv_layout(**facts)
        return FusedLayout(rows.num_blocks, {part: rows.rows_per_block[part] for part in "qvk"})

    return linears, "qkv_layout", swapped


def _parts_one_after_another() -> Patch:
    from clora import wrappers

    def one_after_another(base: Any, deltas: Any, rows: Any) -> Any:
        size = {stretch.part: rows.num_blocks * stretch.rows for stretch in rows.stretches}
        whole = [deltas.get(part, base.new_zeros(*base.shape[:-1], n)) for part, n in size.items()]
        return base + torch.cat(whole, -1)

    return wrappers, "packed_sum", one_after_another


def _off_by_one_group() -> Patch:
    from clora import wrappers
    from clora.packed import packed_sum

    def rolled(base: Any, deltas: Any, rows: Any) -> Any:
        moved = {
            part: delta.unflatten(-1, (rows.num_blocks, -1)).roll(1, -2).flatten(-2) for part, delta in deltas.items()
        }
        return packed_sum(base, moved, rows)

    return wrappers, "packed_sum", rolled


def _a_trace_in_the_next_part() -> Patch:
    """Add to rows of the next part, by less than rounding explains after a few layers."""
    from clora import wrappers
    from clora.packed import packed_sum

    def traced(base: Any, deltas: Any, rows: Any) -> Any:
        whole = packed_sum(torch.zeros_like(base), deltas, rows)
        return packed_sum(base, deltas, rows) + 1e-5 * whole.roll(1, -1)

    return wrappers, "packed_sum", traced


def _scale(value: Callable[[Any], float]) -> Patch:
    from clora.adapters import Adapter

    return Adapter, "scale", property(value)


def _initialised(method: str) -> Patch:
    from clora import adapters
    from clora.initialisation import initialise

    return adapters, "initialise", lambda weight, _method, **how: initialise(weight, method, **how)


def _shared_a(model: Any) -> None:
    adapters = _layer(model).self_attention.linear_qkv.adapter
    adapters["adapter_k"].linear_in.weight = adapters["adapter_q"].linear_in.weight


def _dropped_bias() -> Patch:
    from clora.wrappers import Adapted

    plain = Adapted._base_forward

    def without(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        out, shared, rest = plain(self, x, *args, **kwargs)
        bias = dict(self.named_parameters(recurse=False)).get("bias")
        return (out if bias is None else out - bias), shared, rest

    return _on_wrappers("_base_forward", without)


def _cast() -> Patch:
    from clora.wrappers import Adapted

    plain = Adapted._base_forward

    def cast(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        out, shared, rest = plain(self, x, *args, **kwargs)
        return out.bfloat16().to(out.dtype), shared, rest

    return _on_wrappers("_base_forward", cast)


def _unnormed() -> Patch:
    from clora.wrappers import Adapted

    plain = Adapted._base_forward

    def unnormed(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        out, _, rest = plain(self, x, *args, **kwargs)
        return out, x, rest

    return _on_wrappers("_base_forward", unnormed)


def _on_wrappers(name: str, function: Any) -> list[Patch]:
    """Patch a method of all wrappers. The classes of adapted modules are made once and keep the
    methods, so they must be made again.
    """
    from clora import wrappers

    return [(wrappers.Adapted, name, function), (wrappers, "_classes", {})]


def _thrown_away() -> list[Patch]:
    from clora.wrappers import LoRALinear

    def base_only(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        out, _, rest = self._base_forward(x, *args, **kwargs)
        return (out, *rest) if rest else out

    from clora import wrappers

    return [(LoRALinear, "forward", base_only), (wrappers, "_classes", {})]


def _delta(changed: Callable[[Any, Any], Any]) -> Patch:
    from clora.adapters import ParallelLinearAdapter

    plain = ParallelLinearAdapter.delta

    def delta(self: Any, h: Any, rows: Any = None) -> Any:
        return changed(plain(self, h, rows), h)

    return ParallelLinearAdapter, "delta", delta


def _dropped_input(drop: Callable[[Any, float], Any]) -> Patch:
    """Draw the mask of the adapter's input with `drop(x, probability)`."""

    def apply_to_input(self: Any, x: Any, _wiring: Any, *, training: bool) -> Any:
        return drop(x, self.probability) if training and self.probability else x

    return Dropout, "apply_to_input", apply_to_input


def _own_mask(x: Any, probability: float, generator: torch.Generator) -> Any:
    return x * (torch.rand(x.shape, generator=generator) >= probability) / (1 - probability)


def _always_drops() -> Patch:
    plain = Dropout.apply_to_input

    def apply_to_input(self: Any, x: Any, wiring: Any, *, training: bool) -> Any:
        return plain(self, x, wiring, training=True)

    return Dropout, "apply_to_input", apply_to_input


def _common_random_state() -> Patch:
    from clora import adapters

    return adapters, "_dropout_rng", lambda _wiring, *, ranks_differ: nullcontext(ranks_differ)


def _own_random_state() -> Patch:
    from clora import adapters

    plain = adapters._dropout_rng
    return adapters, "_dropout_rng", lambda wiring, *, ranks_differ: plain(wiring, ranks_differ=ranks_differ or True)


def _rows_permuted() -> Patch:
    from clora.sharding import checkpoint

    plain = checkpoint._sharded_factor

    def permuted(factor: Any, key: str, *how: Any) -> Any:
        sharded = plain(factor, key, *how)
        # B alone: by its A an adapter is found when its scale is written.
        if ".linear_out." in key:
            sharded.data = sharded.data.detach().roll(1, 0)
        return sharded

    return checkpoint, "_sharded_factor", permuted


def _scales_not_compared() -> list[Patch]:
    from clora import adapter_checkpoint

    # The fingerprint covers the scale as well.
    checks = ("refuse_other_scales", "_refuse_other_values")
    return [(adapter_checkpoint, check, lambda *_: True) for check in checks]


def _sections_in_plain_order() -> Patch:
    from clora import linears

    return linears, "_sections", lambda *_: ()


def _merged(changed: Callable[[Any], Any]) -> Patch:
    from clora import merge

    plain = merge._delta
    return merge, "_delta", lambda *facts: changed(plain(*facts))


class Subtracts(Clora):
    """Merges without a copy of the base, so that unmerging subtracts."""

    def merge(self, chunks: list[Any]) -> None:
        from clora.merge import merge_adapters

        merge_adapters(chunks, keep_base=False)


def _imported_upside_down() -> Patch:
    from clora import hf
    from clora.sharding.full_tensor import local_shard

    return hf, "local_shard", lambda factor, matrix: local_shard(factor, matrix.flip(-2))


def _exported_without_one() -> Patch:
    from clora import hf

    write = hf.write_folder

    def all_but_the_last(folder: Path, pairs: dict[str, Any], **facts: Any) -> None:
        write(folder, dict(list(pairs.items())[:-1]), **facts)

    return hf, "write_folder", all_but_the_last


def _no_recompute_hooks() -> Patch:
    from clora import surgery

    return surgery, "enable_input_gradients", lambda *_: []


def _factor(changed: Callable[[Any, Any], Any]) -> Patch:
    from clora.adapters import Factor

    plain = Factor.forward
    return Factor, "forward", lambda self: changed(plain(self), self)


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, x: Any) -> Any:
        return x.clone()

    @staticmethod
    def backward(_ctx: Any, *grads: Any) -> Any:
        return grads[0] * 2


class _Infinite(_Doubled):
    @staticmethod
    def backward(_ctx: Any, *grads: Any) -> Any:
        return grads[0] * float("inf")


def _other_experts() -> Patch:
    from clora.adapters import GroupedExpertLinearAdapter

    plain = GroupedExpertLinearAdapter.forward

    def rolled(self: Any, x: Any, splits: Any) -> Any:
        weight = self.linear_out.weight
        with patch.object(
            type(self.linear_out),
            "forward",
            lambda factor: factor.weight.roll(1, 0) if factor.weight is weight else factor.weight,
        ):
            return plain(self, x, splits)

    return GroupedExpertLinearAdapter, "forward", rolled


def _without_gradient_through_gather() -> Patch:
    from clora import communication

    plain = communication._gather_factor

    def cut(factor: Any, wiring: Any, *, partial: bool) -> Any:
        whole = plain(factor.detach(), wiring, partial=partial)
        rows = factor.shape[-2]
        mine = [whole.narrow(-2, rank * rows, rows) if rank != wiring.rank else factor for rank in range(wiring.size)]
        return torch.cat(mine, -2)

    return communication, "_gather_factor", cut


def _communication(name: str, value: Any) -> Patch:
    from clora.communication import Communication

    return Communication, name, value


def _sums_left_out() -> Patch:
    from clora.adapters import Factor

    return Factor, "_is_summed_over_experts", property(lambda _: False)


def _ranks_draw_their_own() -> Patch:
    from megatron.core import parallel_state as mpu

    from clora import initialisation

    plain = initialisation.draw_matrix

    def draw_matrix(method: str, rows: int, columns: int, device: Any) -> Any:
        matrix = plain(method, rows, columns, device)
        return matrix * (1 + mpu.get_expert_model_parallel_rank())

    return initialisation, "draw_matrix", draw_matrix


def _same_shard_everywhere() -> Patch:
    from clora import adapters
    from clora.initialisation import initialise

    def first(weight: Any, method: str, *, split: Any, **how: Any) -> None:
        initialise(weight, method, split=None if split is None else (split[0], 0, split[2]), **how)

    return adapters, "initialise", first


def _local_rows_of_b() -> Patch:
    """With more ranks than key-value groups, let each rank add its part of B to its own rows."""
    from clora.wrappers import LoRALinearSplitQKV, _LoRALinearSplit

    def deltas(self: Any, x: Any) -> dict[str, Any]:
        from clora.adapters import shared_hidden

        hs = shared_hidden([*self.adapters.values()], x)
        size = {stretch.part: stretch.rows for stretch in self.rows.stretches}
        made = {}
        for (part, adapter), h in zip(self.adapters.items(), hs, strict=True):
            local = torch.nn.functional.linear(h, adapter.linear_out.weight)
            rows = size[part]
            made[part] = local.repeat(1, 1, -(-rows // local.shape[-1]) + 1)[..., :rows]
        return made

    from clora import wrappers

    assert issubclass(LoRALinearSplitQKV, _LoRALinearSplit)
    return [(_LoRALinearSplit, "_deltas", deltas), (wrappers, "_classes", {})]  # type: ignore[return-value]


FAULTS: dict[str, Callable[[], Any]] = {
    "none": Clora,
    "swapped up and gate": _swapped_gate_and_up,
    "swapped k and v": _swapped_key_and_value,
    "q, k and v one after another": _parts_one_after_another,
    "interleaved one group off": _off_by_one_group,
    "scale is alpha": lambda: _scale(lambda adapter: adapter.alpha),
    "scale is left out": lambda: _scale(lambda _: 1.0),
    "B is not zero": lambda: _initialised("xavier"),
    "A is shared by q and k": lambda: After(_shared_a),
    "adapters on another layer": lambda: OtherTargets(target_modules=["*.layers.1.*.linear_q"]),
    "one part too few": lambda: OtherTargets(target_modules=["linear_q", "linear_v"]),
    "another dim": lambda: OtherTargets(dim=8),
    "bias is dropped": _dropped_bias,
    "output goes through bf16": _cast,
    "adapter reads the input before the norm": _unnormed,
    "a norm is trainable": lambda: After(lambda model: model.decoder.final_layernorm.requires_grad_(True)),
    "an adapter is frozen": lambda: After(lambda model: _layer(model).mlp.linear_fc2.adapter.requires_grad_(False)),
    "a base weight is changed": lambda: After(lambda model: _layer(model, 1).mlp.linear_fc2.weight[0].add_(1e-3)),
    "the config is changed": lambda: After(lambda model: setattr(model.config, "layernorm_epsilon", 1e-3)),
    "delta is thrown away": _thrown_away,
    "a trace of a part in the next one's rows": _a_trace_in_the_next_part,
    "a trace of later tokens": lambda: _delta(lambda delta, _: delta + 1e-4 * delta.flip(0)),
    "later tokens leak": lambda: _delta(lambda delta, _: delta + delta.flip(0)),
    "delta goes to the next token": lambda: _delta(lambda delta, _: delta.roll(1, 0)),
    "dropout in evaluation": _always_drops,
    "delta is rounded to bf16 and added twice": lambda: _delta(lambda delta, _: 2 * delta),
    "dropout on the other side": lambda: OtherTargets(dropout_position="post"),
    "dropout at another rate": lambda: OtherTargets(dropout=0.3),
    "dropout is not scaled": lambda: _dropped_input(
        lambda x, probability: torch.nn.functional.dropout(x, probability) * (1 - probability)
    ),
    "dropout of whole tokens": lambda: _dropped_input(
        lambda x, probability: x * torch.nn.functional.dropout(torch.ones_like(x[..., :1]), probability)
    ),
    "dropout mask is not recomputed": lambda: _dropped_input(partial(_own_mask, generator=torch.Generator())),
    "dropout mask is always the same": lambda: _dropped_input(
        lambda x, probability: _own_mask(x, probability, torch.Generator().manual_seed(1))
    ),
    "ranks draw the same mask of other tokens": _common_random_state,
    "ranks draw masks of their own of the same values": _own_random_state,
    "scale is applied twice": lambda: _scale(lambda adapter: (adapter.alpha / adapter.dim) ** 2),
    "alpha is lost on load": LosesAlpha,
    "second surgery freezes": Frozen,
    "checkpoint rows are permuted": _rows_permuted,
    "a checkpoint of another alpha is loaded": _scales_not_compared,
    "packed sections are saved in the order of ranks": _sections_in_plain_order,
    "B is not loaded": Forgetful,
    "merging subtracts": lambda: _merged(lambda delta: -delta),
    "merging forgets the last row": lambda: _merged(lambda delta: torch.cat([delta[:-1], 0 * delta[-1:]])),
    "unmerging subtracts": Subtracts,
    "imported upside down": _imported_upside_down,
    "exported without one": _exported_without_one,
    "recomputation without an input that wants a gradient": _no_recompute_hooks,
    "A is detached": lambda: _factor(lambda weight, _: weight.detach() if weight.shape[0] == 4 else weight),
    "gradient is doubled": lambda: _factor(lambda weight, _: _Doubled.apply(weight)),
    "gradient is infinite": lambda: _factor(lambda weight, _: _Infinite.apply(weight)),
    "the next expert's B": _other_experts,
    "gradient is cut at a gather": _without_gradient_through_gather,
    "partial gradients are not summed": lambda: _communication("_gradient_is_partial", property(lambda _: False)),
    "row-parallel delta is not summed": lambda: _communication("exchange_hidden", lambda _, h: h),
    "experts' shared gradients are not summed": _sums_left_out,
    "ranks draw their own values": _ranks_draw_their_own,
    "all ranks draw the same part": _same_shard_everywhere,
    "local rows of B where groups are cut": _local_rows_of_b,
}
