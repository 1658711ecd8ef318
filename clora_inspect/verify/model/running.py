"""Run a model, whatever its pipeline: what it puts out, what happens inside, and gradients."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import nn

    from clora_inspect.verify.model.batch import Batch

T = TypeVar("T")

Outputs = list[torch.Tensor]
"""`[length, rows, vocabulary / tp]` of the prediction layers in their order, then of the model
itself; empty on a stage without an end.
"""


class ForwardFailed(Exception):  # noqa: N818 - wraps what went wrong with where it did
    """The model's forward (or backward) raised."""

    def __init__(self, where: str | None, cause: BaseException) -> None:
        super().__init__(f"{type(cause).__name__}: {' '.join(str(cause).split())}")
        self.where = where


def outputs_of(chunks: Sequence[nn.Module], batch: Batch, *, training: bool = False) -> Outputs:
    """Run forward without gradients.

    Raises:
        ForwardFailed: it raised; with the path of the innermost module that was running.
    """
    for chunk in chunks:
        chunk.train(training)
    with torch.no_grad(), _watched(chunks) as seen:
        _run(chunks, batch, seen, forward_only=True)
    return [output.detach() for output in seen]


def backward(chunks: Sequence[nn.Module], batch: Batch, *, training: bool = True) -> Outputs:
    """Run forward and backward of a smooth loss on every output, with gradients in `.grad` (or in
    the data-parallel wrapper's buffers).

    Raises:
        ForwardFailed: as `outputs_of`.
    """
    for chunk in chunks:
        chunk.train(training)
    with _watched(chunks) as seen:
        _run(chunks, batch, seen, forward_only=False)
    return [output.detach() for output in seen]


def loss_of(outputs: Outputs) -> torch.Tensor:
    """One number from all outputs: every prediction layer counts as much as the model itself. Per
    token, so that layouts agree.
    """
    wide = [output.to(torch.promote_types(output.dtype, torch.float32)) for output in outputs]
    return torch.stack(
        [(output.sin() + output.square() / 4).sum() / (output.shape[0] * output.shape[1]) for output in wide]
    ).sum()


@contextmanager
def module_outputs(
    chunks: Sequence[nn.Module], paths: Sequence[tuple[int, str]]
) -> Iterator[dict[tuple[int, str], torch.Tensor]]:
    """Collects what the modules at (chunk, path) put out, the first tensor of it, when they run
    inside.
    """
    collected: dict[tuple[int, str], torch.Tensor] = {}

    def keep(key: tuple[int, str]) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            tensor = first_tensor(output)
            if tensor is not None:
                collected[key] = tensor.detach().clone()

        return hook

    with ExitStack() as stack:
        for number, path in dict.fromkeys(paths):
            handle = chunks[number].get_submodule(path).register_forward_hook(keep((number, path)))
            stack.callback(handle.remove)
        yield collected


def first_tensor(output: Any) -> torch.Tensor | None:
    """The first tensor in what a module returned."""
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, (tuple, list)):
        return next((found for item in output if (found := first_tensor(item)) is not None), None)
    return None


def _keeping(seen: Outputs) -> Any:
    """A hook that keeps what a module puts out."""

    def keep(_module: nn.Module, _args: Any, output: Any) -> None:
        tensor = first_tensor(output)
        if tensor is not None:
            seen.append(tensor)

    return keep


def entering(running: list[T], key: T) -> Any:
    """A hook that knows that the module called `key` is running."""

    def enter(_module: nn.Module, _args: Any) -> None:
        running.append(key)

    return enter


def leaving(running: list[Any]) -> Any:
    """The hook that knows that it has ended."""

    def leave(_module: nn.Module, _args: Any, _output: Any) -> None:
        if running:
            running.pop()

    return leave


@contextmanager
def _watched(chunks: Sequence[nn.Module]) -> Iterator[Outputs]:
    """Collect outputs, and know which module was running when something fails."""
    seen: Outputs = []
    running: list[str] = []

    with ExitStack() as stack:
        for chunk in chunks:
            model = unwrapped(chunk)
            for path, module in model.named_modules():
                if path:
                    stack.callback(module.register_forward_pre_hook(entering(running, path)).remove)
                    stack.callback(module.register_forward_hook(leaving(running)).remove)
            end = output_end(model)
            if end is not None:
                stack.callback(end.register_forward_hook(_keeping(seen)).remove)
        try:
            yield seen
        except Exception as error:
            where = next((path for path in reversed(running) if ".adapter" not in path), None)
            raise ForwardFailed(where, error) from error


def unwrapped(chunk: nn.Module) -> nn.Module:
    """The model inside megatron-core's wrappers."""
    foreign: Any = chunk
    while isinstance(foreign._modules.get("module"), torch.nn.Module):  # noqa: SLF001
        foreign = foreign.module
    return foreign  # type: ignore[no-any-return]


def output_end(model: nn.Module) -> nn.Module | None:
    """The module whose output is the model's: the output layer, once for the model and once for
    each prediction layer.
    """
    foreign: Any = model
    if not getattr(model, "post_process", True):
        # A layer by itself ends where its block does; a stage in the middle of a pipeline hands its
        # states on.
        return foreign.decoder if not getattr(model, "pre_process", True) and _is_alone() else None
    end = foreign._modules.get("output_layer")  # noqa: SLF001
    return end if end is not None else model


def _is_alone() -> bool:
    from megatron.core import parallel_state as mpu

    return bool(mpu.get_pipeline_model_parallel_world_size() == 1)


def _run(chunks: Sequence[nn.Module], batch: Batch, seen: Outputs, *, forward_only: bool) -> None:
    from megatron.core import parallel_state as mpu

    if mpu.get_pipeline_model_parallel_world_size() == 1:
        _call(chunks[0], batch)
        if not forward_only:
            loss_of(seen).backward()  # type: ignore[no-untyped-call]
        return
    _run_pipeline(chunks, batch, seen, forward_only=forward_only)


def _run_pipeline(chunks: Sequence[nn.Module], batch: Batch, seen: Outputs, *, forward_only: bool) -> None:
    from megatron.core import parallel_state as mpu
    from megatron.core.pipeline_parallel import get_forward_backward_func

    stages = mpu.get_pipeline_model_parallel_world_size()
    count = stages if len(chunks) > 1 else 1
    microbatches = batch.microbatches(count)
    first: Any = unwrapped(chunks[0])
    per_batch = 1 + (first.config.mtp_num_layers or 0)

    def forward_step(iterator: Iterator[Batch], model: nn.Module) -> tuple[torch.Tensor, Any]:
        output = _call(model, next(iterator))

        def loss(_output: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
            return loss_of(seen[-per_batch:]), {}

        return output, loss

    rows = microbatches[0].tokens
    get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=[iter(microbatches) for _ in chunks] if len(chunks) > 1 else iter(microbatches),
        model=list(chunks) if len(chunks) > 1 else chunks[0],
        num_microbatches=count,
        seq_length=batch.length,
        micro_batch_size=0 if rows is None else len(rows),
        forward_only=forward_only,
    )
    if seen and count > 1:
        whole = [torch.cat([seen[i + k * per_batch] for k in range(count)], dim=1) for i in range(per_batch)]
        seen[:] = whole


def _call(model: nn.Module, batch: Batch) -> torch.Tensor:
    foreign: Any = model
    inner: Any = unwrapped(model)
    if batch.tokens is None:
        inner.set_input_tensor(batch.states)
        output: torch.Tensor = foreign(None, None, None)
        return output
    positions = torch.arange(batch.length, device=batch.tokens.device).expand(len(batch.tokens), -1)
    # Prediction layers run only for a loss; their logits are what is looked at.
    labels = batch.tokens.roll(-1, dims=1) if getattr(getattr(inner, "config", None), "mtp_num_layers", None) else None
    return foreign(batch.tokens, positions, None, labels=labels)  # type: ignore[no-any-return]
