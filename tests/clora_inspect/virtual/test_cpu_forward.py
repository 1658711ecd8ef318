"""On the CPU each kind of model computes a loss, and each parameter gets a gradient."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import tiny_models
import torch

from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet
from clora_inspect.virtual import virtual_cluster, virtual_megatron, world
from clora_inspect.virtual.module_set import ModuleSet


def test_a_world_first_entered_on_meta_computes_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "_MODULES", ModuleSet())
    with quiet(), virtual_megatron("meta"), virtual_cluster(Layout()), torch.device("meta"):
        tiny_models.build("mla-moe-mtp", Layout())
    with quiet(), virtual_megatron("cpu"), virtual_cluster(Layout()):
        model = tiny_models.build("mla-moe-mtp", Layout(), "cpu")
        tiny_models.loss_of(model).mean().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.fixture(scope="module")
def _one_rank_on_the_cpu() -> Iterator[None]:
    with quiet(), virtual_megatron("cpu"), virtual_cluster(Layout()):
        yield


@pytest.mark.usefixtures("_one_rank_on_the_cpu")
@pytest.mark.parametrize("kind", tiny_models.KINDS)
def test_every_parameter_gets_a_gradient(kind: str) -> None:
    model = tiny_models.build(kind, Layout(), "cpu")
    loss = tiny_models.loss_of(model)
    assert loss.shape == (tiny_models.BATCH, tiny_models.SEQUENCE)
    loss.mean().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []
    silent = [name for name, p in model.named_parameters() if not p.grad.any()]
    assert silent == []


@pytest.mark.usefixtures("_one_rank_on_the_cpu")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", tiny_models.KINDS)
def test_any_dtype_gives_the_loss_of_float64(kind: str, dtype: torch.dtype) -> None:
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

    def loss_in(wanted: torch.dtype) -> torch.Tensor:
        model_parallel_cuda_manual_seed(5, force_reset_rng=True)
        model = tiny_models.build(kind, Layout(), "cpu", dtype=torch.float32).to(wanted)
        assert {p.dtype for p in model.parameters()} == {wanted}
        return tiny_models.loss_of(model).double()

    assert torch.allclose(loss_in(dtype), loss_in(torch.float64), atol=0, rtol=0.05 if dtype.itemsize == 2 else 1e-5)


@pytest.mark.usefixtures("_one_rank_on_the_cpu")
# megatron-core's multi-token prediction gives no logits without labels.
@pytest.mark.parametrize("kind", [kind for kind in tiny_models.KINDS if not kind.endswith("mtp")])
def test_float64_is_float64_all_the_way(kind: str) -> None:
    def loss() -> torch.Tensor:
        logits = tiny_models.logits_of(model)
        assert logits.dtype == torch.float64
        return logits.log_softmax(-1)[..., 3].mean()

    model = tiny_models.build(kind, Layout(), "cpu", dtype=torch.float64)
    weight = next(
        p for name, p in model.named_parameters() if name.endswith("layers.0.self_attention.linear_proj.weight")
    )
    loss().backward()
    step = 1e-4
    with torch.no_grad():
        weight[3, 5] += step
        after = loss()
        weight[3, 5] -= 2 * step
        before = loss()
    # Rounding to float32 anywhere on the way moves this slope by several parts in 10^5. The
    # router's softmax, which megatron-core always computes in float32, moves it by about one part
    # in 10^5.
    bound = 1e-4 if kind == "moe" else 1e-6
    assert float((after - before) / (2 * step)) == pytest.approx(float(weight.grad[3, 5]), rel=bound)


@pytest.mark.usefixtures("_one_rank_on_the_cpu")
@pytest.mark.parametrize(("layer", "allowed"), [("Linear", True), ("LayerNormLinear", False), ("GroupedLinear", False)])
def test_an_output_may_be_changed_in_place_as_in_the_real_package(layer: str, allowed: bool) -> None:
    import transformer_engine.pytorch as te

    x = torch.randn(6, 8, requires_grad=True)
    if layer == "GroupedLinear":
        y = te.GroupedLinear(2, 8, 4, bias=False)(x, [4, 2])
    else:
        y = getattr(te, layer)(8, 4, bias=False)(x)
    with nullcontext() if allowed else pytest.raises(RuntimeError, match="is a view and is being modified inplace"):
        y += 1
