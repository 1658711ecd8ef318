"""CUDA graphs of adapted models: replaying gives what running gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gpu_models
import pytest
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("one_gpu")]

STEPS = 3


@pytest.fixture(autouse=True)
def _random_states_that_graphs_can_hold(one_gpu: None) -> Iterator[None]:
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

    model_parallel_cuda_manual_seed(1, te_rng_tracker=True, force_reset_rng=True)
    yield
    # megatron-core changes the current stream when it makes its first graph.
    torch.cuda.set_stream(torch.cuda.default_stream())


class _FirstOutput(torch.nn.Module):
    """A layer without the context that it returns second, which is None."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return the layer's states."""
        output: torch.Tensor = self.layer(states)[0]
        return output


def test_a_whole_step_is_captured(proved: Callable[[str], None]) -> None:
    from megatron.core.tensor_parallel.random import get_all_rng_states

    model = gpu_models.adapt(gpu_models.build())
    tokens, positions, labels = gpu_models.batch()

    def step() -> torch.Tensor:
        for p in model.parameters():
            p.grad = None
        found: torch.Tensor = model(tokens, positions, None, labels=labels).mean()
        found.backward()
        return found

    _warm_up(step)
    expected_loss = step().detach().clone()
    expected = gpu_models.gradients(model).adapters
    _warm_up(step)
    for p in model.parameters():
        p.grad = None
    graph = torch.cuda.CUDAGraph()
    for state in get_all_rng_states().values():
        graph.register_generator_state(state)
    with torch.cuda.graph(graph):
        loss = step()
    for _ in range(STEPS):
        graph.replay()
    found = gpu_models.gradients(model).adapters
    assert torch.equal(loss, expected_loss)
    assert set(found) == set(expected)
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    proved(f"a captured step of an adapted model replays to the same loss and {len(expected)} gradients, bit for bit")


def test_a_layer_is_captured_by_transformer_engine(proved: Callable[[str], None]) -> None:
    import transformer_engine.pytorch as te

    layer = _FirstOutput(gpu_models.adapt(gpu_models.build()).decoder.layers[0])
    states = torch.randn(gpu_models.LENGTH, gpu_models.ROWS, gpu_models.HIDDEN, device="cuda", dtype=torch.bfloat16)
    states.requires_grad_()

    def run(forward: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        for p in layer.parameters():
            p.grad = None
        out = forward(states)
        out.float().square().mean().backward()
        return out.detach().clone(), gpu_models.gradients(layer).adapters

    expected, expected_gradients = run(layer)
    graphed = te.make_graphed_callables(layer, (states.detach().clone().requires_grad_(),))
    found, found_gradients = run(graphed)
    assert torch.equal(found, expected)
    assert set(found_gradients) == set(expected_gradients)
    worst = max(gpu_models.relative(found_gradients[name], expected_gradients[name]) for name in expected_gradients)
    assert worst == 0
    proved("an adapted layer in Transformer Engine's make_graphed_callables gives the same output and gradients")


def test_megatron_core_captures_each_layer(proved: Callable[[str], None]) -> None:
    from megatron.core.transformer import cuda_graphs

    eager = gpu_models.adapt(gpu_models.build())
    expected_loss = gpu_models.loss(eager)
    expected_loss.backward()
    expected = gpu_models.gradients(eager).adapters
    model = gpu_models.adapt(gpu_models.build(cuda_graph_impl="local"))
    # As megatron-core's schedule does: record a step, capture its layers, replay from then on.
    gpu_models.loss(model).backward()
    cuda_graphs.create_cudagraphs()
    try:
        for p in model.parameters():
            p.grad = None
        loss = gpu_models.loss(model)
        loss.backward()
        found = gpu_models.gradients(model).adapters
        assert gpu_models.relative(loss, expected_loss) <= 1e-3
        assert set(found) == set(expected)
        worst = max(gpu_models.relative(found[name], expected[name]) for name in expected)
        assert worst <= 1e-2
    finally:
        cuda_graphs.delete_cuda_graphs()
    proved(f"with cuda_graph_impl=local, replayed layers give the eager gradients up to {worst:.1e}")


def _warm_up(step: Callable[[], torch.Tensor]) -> None:
    # torch asks for this before a capture: what is made at a first call must not be captured.
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(STEPS):
            step()
    torch.cuda.current_stream().wait_stream(stream)
