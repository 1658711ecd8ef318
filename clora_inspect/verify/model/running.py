"""Run a model forward or backward, with or without a pipeline: its outputs, the outputs of modules
inside it, and its gradients.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from clora.errors import described

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import nn

    from clora_inspect.verify.model.batch import Batch

T = TypeVar("T")

Outputs = list[torch.Tensor]
"""Logits `[length, rows, vocabulary / tp]` of each multi-token-prediction layer, then those of the
model itself. Empty on a pipeline stage without output layer.
"""

ModuleKey = tuple[int, str]
"""Number of a chunk, and the path of a module in it."""

ModuleOutputs = dict[ModuleKey, torch.Tensor]
"""First tensor in the output of each module, in the order in which the modules ended."""


class ForwardFailed(Exception):  # noqa: N818 - wraps an exception together with its place
    """The model's forward or backward raised."""

    def __init__(self, where: str | None, cause: BaseException) -> None:
        super().__init__(described(cause))
        self.where = where
        """Path of the innermost module that was running."""


def outputs_of(chunks: Sequence[nn.Module], batch: Batch, *, training: bool = False) -> Outputs:
    """Run forward without gradients.

    Raises:
        ForwardFailed: the forward raised.
    """
    for chunk in chunks:
        chunk.train(training)
    with torch.no_grad(), _collecting(chunks) as outputs:
        _run(chunks, batch, outputs, forward_only=True)
    return [output.detach() for output in outputs]


def forward_of(chunk: nn.Module, batch: Batch, states: torch.Tensor | None) -> Any:
    """Run one stage of a pipeline alone, without gradients, and return what it hands on.

    Args:
        chunk: the stage's chunk.
        batch: the tokens, which every stage gets.
        states: what the stage before has handed on; None on the first stage.

    Raises:
        ForwardFailed: the forward raised.
    """
    model: Any = unwrapped(chunk)
    chunk.eval()
    with torch.no_grad(), _collecting([chunk]):
        # A list, as the schedule passes it.
        model.set_input_tensor([states])
        return _call(chunk, batch)


def backward(chunks: Sequence[nn.Module], batch: Batch) -> Outputs:
    """Run forward and backward in training mode, with a smooth loss on every output. Gradients are
    left in `.grad`, or in the buffers of a data-parallel wrapper.

    Raises:
        ForwardFailed: the forward or the backward raised.
    """
    for chunk in chunks:
        chunk.train()
    with _collecting(chunks) as outputs:
        _run(chunks, batch, outputs, forward_only=False)
    return [output.detach() for output in outputs]


def loss_of(outputs: Outputs) -> torch.Tensor:
    """Return one number from all outputs, in which each prediction layer counts as much as the
    model itself. It is a mean over tokens, so that layouts agree.
    """
    wide = [output.to(torch.promote_types(output.dtype, torch.float32)) for output in outputs]
    return torch.stack(
        [(output.sin() + output.square() / 4).sum() / (output.shape[0] * output.shape[1]) for output in wide]
    ).sum()


@contextmanager
def module_outputs(chunks: Sequence[nn.Module], paths: Sequence[ModuleKey]) -> Iterator[ModuleOutputs]:
    """Collect the outputs of the modules at `paths` while they run inside."""
    collected: ModuleOutputs = {}

    def keep(key: ModuleKey, tensor: torch.Tensor) -> None:
        collected[key] = tensor.detach().clone()

    with ExitStack() as stack:
        for key in dict.fromkeys(paths):
            number, path = key
            hook = _output_hook(partial(keep, key))
            stack.callback(chunks[number].get_submodule(path).register_forward_hook(hook).remove)
        yield collected


@dataclass(frozen=True, slots=True)
class Call:
    """A module, and the arguments of its call inside a model."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def output(self, *, is_router: bool = False) -> torch.Tensor:
        """Call the module again and return its first output tensor; of a router, its logits."""
        module: Any = self.module
        if is_router:
            logits: torch.Tensor = module.gating(self.args[0])
            return logits
        found = first_tensor(module(*self.args, **self.kwargs))
        return torch.empty(0) if found is None else found


def calls_of(chunks: Sequence[nn.Module], paths: Sequence[ModuleKey], batch: Batch) -> dict[ModuleKey, Call]:
    """Run forward and return how the modules at `paths` were called. A module that did not run is
    not in it.
    """
    calls: dict[ModuleKey, Call] = {}

    def keep(key: ModuleKey, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls[key] = Call(module, args, kwargs)

    with ExitStack() as stack:
        for key in dict.fromkeys(paths):
            number, path = key
            module = chunks[number].get_submodule(path)
            stack.callback(module.register_forward_pre_hook(partial(keep, key), with_kwargs=True).remove)
        outputs_of(chunks, batch)
    return calls


@dataclass
class Forwards:
    """How often the forward of any module was run."""

    count: int = 0


@contextmanager
def counted_forwards() -> Iterator[Forwards]:
    """Count the forwards of all modules that run inside."""
    forwards = Forwards()

    def count(_module: nn.Module, _args: Any) -> None:
        forwards.count += 1

    from torch.nn.modules.module import register_module_forward_pre_hook

    handle = register_module_forward_pre_hook(count)
    try:
        yield forwards
    finally:
        handle.remove()


def first_tensor(output: Any) -> torch.Tensor | None:
    """Return the first tensor in what a module returned."""
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, dict):
        return first_tensor(list(output.values()))
    if isinstance(output, (tuple, list)):
        return next((found for item in output if (found := first_tensor(item)) is not None), None)
    return None


def _output_hook(keep: Callable[[torch.Tensor], None]) -> Any:
    """Return a forward hook that passes the module's first output tensor to `keep`."""

    def hook(_module: nn.Module, _args: Any, output: Any) -> None:
        tensor = first_tensor(output)
        if tensor is not None:
            keep(tensor)

    return hook


def start_hook(running: list[T], key: T) -> Any:
    """Return a pre-forward hook that puts `key` on the stack of modules that are running."""

    def hook(_module: nn.Module, _args: Any) -> None:
        running.append(key)

    return hook


def end_hook(running: list[Any]) -> Any:
    """Return the forward hook that takes the module off the stack again."""

    def hook(_module: nn.Module, _args: Any, _output: Any) -> None:
        if running:
            running.pop()

    return hook


@contextmanager
def _collecting(chunks: Sequence[nn.Module]) -> Iterator[Outputs]:
    """Collect the model's outputs inside, and turn an exception into `ForwardFailed`."""
    outputs: Outputs = []
    running: list[str] = []
    with ExitStack() as stack:
        for chunk in chunks:
            model = unwrapped(chunk)
            for path, module in model.named_modules():
                if path:
                    stack.callback(module.register_forward_pre_hook(start_hook(running, path)).remove)
                    stack.callback(module.register_forward_hook(end_hook(running)).remove)
            last = last_module(model)
            if last is not None:
                # A copy, because megatron-core's cross entropy overwrites fp32 logits in place.
                keep = partial(_append_copy, outputs)
                stack.callback(last.register_forward_hook(_output_hook(keep)).remove)
        try:
            yield outputs
        # A forward of the user may end the process as well.
        except (Exception, SystemExit) as error:
            where = next((path for path in reversed(running) if ".adapter" not in path), None)
            raise ForwardFailed(where, error) from error


def _append_copy(outputs: Outputs, output: torch.Tensor) -> None:
    outputs.append(output.clone())


def unwrapped(chunk: nn.Module) -> nn.Module:
    """Return the model inside megatron-core's wrappers, which all call it `module`."""
    model = chunk
    while (inner := dict(model.named_children()).get("module")) is not None:
        model = inner
    return model


def last_module(model: nn.Module) -> nn.Module | None:
    """Return the module whose outputs are the model's. The output layer runs once for the model and
    once for each prediction layer.

    None on a pipeline stage that hands hidden states on. One layer by itself ends with its block.
    """
    # A user's model need not have these flags, and then has both ends.
    if not getattr(model, "post_process", True):
        foreign: Any = model
        return foreign.decoder if not getattr(model, "pre_process", True) and not _has_pipeline() else None
    return dict(model.named_children()).get("output_layer", model)


def _has_pipeline() -> bool:
    from megatron.core import parallel_state as mpu

    return bool(mpu.get_pipeline_model_parallel_world_size() > 1)


def _run(chunks: Sequence[nn.Module], batch: Batch, outputs: Outputs, *, forward_only: bool) -> None:
    if _has_pipeline():
        _run_pipeline(chunks, batch, outputs, forward_only=forward_only)
        return
    _call(chunks[0], batch)
    if not forward_only:
        loss_of(outputs).backward()  # type: ignore[no-untyped-call]


def _run_pipeline(chunks: Sequence[nn.Module], batch: Batch, outputs: Outputs, *, forward_only: bool) -> None:
    """Run megatron-core's own pipeline schedule. `outputs` is filled by hooks of the last stage."""
    from megatron.core import parallel_state as mpu
    from megatron.core.pipeline_parallel import get_forward_backward_func

    # The interleaved schedule, with several chunks on a rank, wants as many microbatches as stages.
    count = mpu.get_pipeline_model_parallel_world_size() if len(chunks) > 1 else 1
    microbatches = batch.microbatches(count)
    different = len(microbatches)
    # One row, as the proof of causality has it, cannot be divided: it is run again.
    microbatches += microbatches[:1] * (count - different)
    model: Any = unwrapped(chunks[0])
    outputs_per_batch = 1 + (model.config.mtp_num_layers or 0)

    def forward_step(iterator: Iterator[Batch], chunk: nn.Module) -> tuple[torch.Tensor, Any]:
        output = _call(chunk, next(iterator))

        def loss(_output: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
            return loss_of(outputs[-outputs_per_batch:]), {}

        return output, loss

    tokens = microbatches[0].tokens
    get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=[iter(microbatches) for _ in chunks] if len(chunks) > 1 else iter(microbatches),
        model=list(chunks) if len(chunks) > 1 else chunks[0],
        num_microbatches=count,
        seq_length=batch.states_length,
        micro_batch_size=0 if tokens is None else len(tokens),
        forward_only=forward_only,
    )
    if outputs and count > 1:
        del outputs[different * outputs_per_batch :]
        outputs[:] = [
            joined_rows(outputs[number::outputs_per_batch], batch.states_length) for number in range(outputs_per_batch)
        ]


def joined_rows(pieces: Sequence[torch.Tensor], length: int) -> torch.Tensor:
    """Join outputs for different rows of `length` tokens.

    megatron-core's outputs are `[length, rows, ...]`, those of a module around one of its models
    mostly `[rows, length, ...]`.
    """
    first = pieces[0].shape
    rows_first = len(first) > 1 and first[1] == length != first[0]
    return torch.cat(list(pieces), 0 if rows_first else 1)


def _call(chunk: nn.Module, batch: Batch) -> torch.Tensor:
    call: Any = chunk
    model: Any = unwrapped(chunk)
    if batch.tokens is None:
        model.set_input_tensor(batch.states)
        output: torch.Tensor = call(None, None, None)
        return output
    positions = torch.arange(batch.length, device=batch.tokens.device).expand(len(batch.tokens), -1)
    # megatron-core runs prediction layers only for a loss, which needs labels. Their logits are
    # what is compared, not the loss.
    predicts = getattr(getattr(model, "config", None), "mtp_num_layers", None)
    labels = batch.tokens.roll(-1, dims=1) if predicts else None
    return call(batch.tokens, positions, None, labels=labels)  # type: ignore[no-any-return]
