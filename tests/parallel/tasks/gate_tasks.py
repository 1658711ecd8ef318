"""Build a small model on real ranks, change one thing on some of them, and ask the gate."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from clora import CanonicalLoRA, apply
from clora.wrappers import adapted_modules
from clora_inspect.job.layout import Layout
from clora_inspect.launch.agreement import Ranks
from clora_inspect.launch.gate import judge
from clora_inspect.machine.quiet import quiet
from clora_inspect.sources.build import build_chunks
from clora_inspect.sources.definition import load_definition

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


FLOAT32 = {"params_dtype": "float32", "bf16": False}
"""Fields of the config with which the model runs on a CPU."""


@dataclasses.dataclass
class Run:
    """A run before surgery, which a drift changes."""

    model: str
    layout: Layout
    fields: dict[str, Any]
    lora: CanonicalLoRA
    chunks: Sequence[Any] = ()


def ask(
    model: str,
    axes: dict[str, Any],
    lora: dict[str, Any],
    file: str,
    drift: str,
    ranks: list[int],
) -> dict[str, Any]:
    """Return the verdict on a run with `drift` on `ranks`, and the collectives that it took."""
    run = Run(model, Layout(**axes), dict(FLOAT32), CanonicalLoRA(**lora))
    before, after = DRIFTS[drift]
    is_changed = torch.distributed.get_rank() in ranks
    if is_changed:
        before(run)
    with quiet():
        run.chunks = build_chunks(load_definition(run.model).override(run.fields), run.layout)
    apply(run.lora.plan(run.chunks), run.chunks, run.lora)
    if is_changed:
        after(run)
    counted = _Counted()
    with counted:
        verdict = judge(run.chunks, Path(file), Ranks(torch.device("cpu")))
    return {"code": int(verdict.code), "text": verdict.text, "collectives": counted.names}


class _Counted:
    """Records everything that is sent inside its `with` block, and the bytes of each tensor."""

    KINDS = (
        *("all_reduce", "broadcast", "reduce", "all_gather", "gather", "scatter", "all_to_all", "send", "recv"),
        *("all_gather_object", "gather_object", "broadcast_object_list", "scatter_object_list", "barrier"),
    )

    def __init__(self) -> None:
        self.names: list[str] = []

    def __enter__(self) -> None:
        self._before = {name: getattr(torch.distributed, name) for name in self.KINDS}
        for name, function in self._before.items():
            setattr(torch.distributed, name, self._counting(name, function))

    def _counting(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any, **kwargs: Any) -> Any:
            tensor = next((each for each in args if isinstance(each, torch.Tensor)), None)
            self.names.append(f"{name} {'of objects' if tensor is None else tensor.nbytes}")
            return function(*args, **kwargs)

        return counting

    def __exit__(self, *_: object) -> None:
        for name, function in self._before.items():
            setattr(torch.distributed, name, function)


def _nothing(_: Run) -> None:
    pass


def _lora(**fields: Any) -> Callable[[Run], None]:
    def change(run: Run) -> None:
        run.lora = dataclasses.replace(run.lora, **fields)

    return change


def _config(**fields: Any) -> Callable[[Run], None]:
    def change(run: Run) -> None:
        run.fields.update(fields)

    return change


def _on_modules(change: Callable[[Any], None], name: str = "linear_proj") -> Callable[[Run], None]:
    """Change the adapted modules called `name` in the first layer of the rank."""

    def change_first(run: Run) -> None:
        found = next(module for path, module in adapted_modules(run.chunks[0]) if path.endswith(name))
        change(found)

    return change_first


def _on_adapter(change: Callable[[Any], None], name: str = "linear_proj") -> Callable[[Run], None]:
    return _on_modules(lambda module: change(next(iter(module.adapters.values()))), name)


def _set(owner: Callable[[Any], Any], name: str, value: Any) -> Callable[[Any], None]:
    return lambda module: setattr(owner(module), name, value)


def _widen(adapter: Any) -> None:
    adapter.linear_in.to(torch.float64)


def _drop_adapter(run: Run) -> None:
    from clora.surgery import _restore

    _restore(next(module for _, module in adapted_modules(run.chunks[0])))


def _unfreeze(name: str) -> Callable[[Run], None]:
    def change(run: Run) -> None:
        next(each for path, each in run.chunks[0].named_parameters() if name in path).requires_grad_(True)

    return change


def _drop_recompute_hooks(run: Run) -> None:
    for module in run.chunks[0].modules():
        module._forward_pre_hooks.clear()


def _set_config(**fields: Any) -> Callable[[Run], None]:
    """Change the config after the model was built, as a trainer's arguments do."""

    def change(run: Run) -> None:
        for name, value in fields.items():
            setattr(run.chunks[0].config, name, value)

    return change


def _version(name: str) -> Callable[[Run], None]:
    def change(_: Run) -> None:
        from clora_inspect.launch import live

        real = live.versions

        def changed(device: str) -> dict[str, str]:
            live.versions = real
            return {**real(device), name: "0.0.1"}

        live.versions = changed

    return change


DRIFTS: dict[str, tuple[Callable[[Run], None], Callable[[Run], None]]] = {
    "none": (_nothing, _nothing),
    "another target": (_lora(target_modules=["linear_q", "linear_k", "linear_v", "linear_fc2"]), _nothing),
    "a target more": (
        _lora(target_modules=["linear_q", "linear_k", "linear_v", "linear_proj", "linear_fc2", "linear_fc1_up"]),
        _nothing,
    ),
    "a layer's number": (
        _lora(target_modules=["linear_q", "linear_k", "linear_v", "*.layers.0.*.linear_proj", "linear_fc2"]),
        _nothing,
    ),
    "output layer": (
        _lora(target_modules=["linear_q", "linear_k", "linear_v", "linear_proj", "linear_fc2", "output_layer"]),
        _nothing,
    ),
    "rank": (_lora(dim=8), _nothing),
    "alpha": (_lora(alpha=16), _nothing),
    "alpha of one module": (_nothing, _on_adapter(_set(lambda adapter: adapter, "alpha", 1.0))),
    "dropout": (_lora(dropout=0.1), _nothing),
    "dropout position": (_lora(dropout=0.1, dropout_position="post"), _nothing),
    "init of A": (_lora(lora_A_init_method="kaiming"), _nothing),
    "init of B": (_lora(lora_B_init_method="normal"), _nothing),
    "dtype of an adapter": (_nothing, _on_adapter(_widen)),
    "frozen adapter": (_nothing, _on_adapter(lambda adapter: adapter.requires_grad_(False))),
    "frozen A": (_nothing, _on_adapter(lambda adapter: adapter.linear_in.requires_grad_(False))),
    "adapter removed": (_nothing, _drop_adapter),
    "adapters switched off": (_nothing, _on_modules(lambda module: module.set_enabled(enabled=False))),
    "unfrozen linear": (_nothing, _unfreeze("linear_proj.weight")),
    "unfrozen norm": (_nothing, _unfreeze("layer_norm_weight")),
    "unfrozen fc1": (_nothing, _unfreeze("linear_fc1.weight")),
    "recompute without its hook": (
        _config(recompute_granularity="full", recompute_method="uniform", recompute_num_layers=1),
        _drop_recompute_hooks,
    ),
    "recompute on some ranks": (
        _config(recompute_granularity="full", recompute_method="uniform", recompute_num_layers=1),
        _nothing,
    ),
    "recompute dropped later": (
        _nothing,
        _set_config(recompute_granularity="selective", recompute_modules=["core_attn", "mlp"]),
    ),
    "hidden dropout": (_nothing, _set_config(hidden_dropout=0.1)),
    "attention dropout": (_nothing, _set_config(attention_dropout=0.1)),
    "fused bias": (_nothing, _set_config(bias_dropout_fusion=True)),
    "fused rope": (_nothing, _set_config(apply_rope_fusion=True)),
    "fp8": (_nothing, _set_config(fp8="hybrid")),
    "sequence parallelism off": (_nothing, _set_config(sequence_parallel=False)),
    "eps of the norms": (_config(layernorm_epsilon=1e-3), _nothing),
    "a wider MLP": (_config(ffn_hidden_size=128), _nothing),
    "a layer more": (_config(num_layers=6), _nothing),
    "layers moved between stages": (
        _config(num_layers_in_first_pipeline_stage=1, num_layers_in_last_pipeline_stage=3),
        _nothing,
    ),
    "another vocabulary": (_config(vocab_size=128), _nothing),
    "tied weights": (_config(share_embeddings_and_output_weights=True), _nothing),
    "norm of q and k": (_config(qk_layernorm=True), _nothing),
    "bias of qkv": (_config(add_qkv_bias=True), _nothing),
    "version of torch": (_version("torch"), _nothing),
    "version of megatron-core": (_version("megatron-core"), _nothing),
    "version of Transformer Engine": (_version("transformer-engine"), _nothing),
    "version of clora": (_version("clora-inspect"), _nothing),
}
