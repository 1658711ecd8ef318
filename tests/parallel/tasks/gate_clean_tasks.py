"""Build a model as a trainer does, adapt it, wrap it, train it, and ask the gate at each point.

Nothing here differs from what was accepted, so the gate must let all of it pass.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from clora import CanonicalLoRA
from clora_inspect.job.layout import Layout
from clora_inspect.launch.agreement import Ranks
from clora_inspect.launch.gate import judge
from clora_inspect.launch.recording import record_run
from clora_inspect.launch.settings import RECORD_NAME
from clora_inspect.machine.quiet import quiet
from clora_inspect.sources.build import build_chunks
from clora_inspect.sources.definition import load_definition

if TYPE_CHECKING:
    from collections.abc import Callable

    from clora.linears import Model


class KeepsNormsTrainable(CanonicalLoRA):
    """A user's subclass that trains the norms beside the adapters."""

    def freeze_model(self, model: Model, training: bool = True) -> None:
        super().freeze_model(model, training)
        for chunk in model if isinstance(model, list) else [model]:
            for name, parameter in chunk.named_parameters():
                parameter.requires_grad_("layer_norm" in name)


class Trainer:
    """One rank's model, and what a trainer does to it."""

    def __init__(self, chunks: list[Any]) -> None:
        self.chunks = chunks
        self._optimizer: Any = None

    def float16(self) -> None:
        from megatron.core.transformer.module import Float16Module

        self.chunks = [Float16Module(chunk.config, chunk) for chunk in self.chunks]

    def ddp(self, *, distributed: bool = False) -> None:
        from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig

        config = DistributedDataParallelConfig(use_distributed_optimizer=distributed)
        self.chunks = [DistributedDataParallel(chunk.config, config, chunk) for chunk in self.chunks]

    def distributed_ddp(self) -> None:
        self.ddp(distributed=True)

    def torch_ddp(self) -> None:
        from megatron.core import parallel_state

        group = parallel_state.get_data_parallel_group()
        self.chunks = [torch.nn.parallel.DistributedDataParallel(chunk, process_group=group) for chunk in self.chunks]

    def distributed_optimizer(self) -> None:
        from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer

        config = OptimizerConfig(
            optimizer="adam", lr=1e-2, bf16=self.chunks[0].config.bf16, use_distributed_optimizer=True
        )
        self._optimizer = get_megatron_optimizer(config, self.chunks, use_gloo_process_groups=False)

    def step(self) -> None:
        (chunk,) = self.chunks
        tokens = torch.arange(16).expand(2, 16).contiguous()
        chunk.train()
        chunk.zero_grad_buffer()
        chunk(tokens, tokens.clone(), None, labels=tokens).float().mean().backward()
        chunk.finish_grad_sync()
        self._optimizer.step()

    def eval(self) -> None:
        for chunk in self.chunks:
            chunk.eval()

    def release(self) -> None:
        """Let the collector free the model: DDP's hooks hold it in a circle through C++."""
        for chunk in self.chunks:
            if hasattr(chunk, "grad_accs"):
                chunk.grad_accs.clear()


def gate_each(
    model: str, axes: dict[str, Any], fields: dict[str, Any], lora: dict[str, Any], steps: list[str], files: list[str]
) -> list[dict[str, Any]]:
    """Return the verdicts of the gate after surgery and after each of `steps`, by each file, and
    those by the record of the run itself.

    Args:
        model: the model's name, folder or function.
        axes: sizes of the mesh axes.
        fields: fields of the config of the run, beyond those that were planned with.
        lora: fields of `CanonicalLoRA`; with `subclass` the class of that name in this module.
        steps: methods of `Trainer`, in the order of their calls.
        files: a snapshot and a saved plan; the record of the run goes to their folder.
    """
    layout = Layout(**axes)
    with quiet():
        chunks = build_chunks(load_definition(model).override(fields), layout)
    kind: Callable[..., CanonicalLoRA] = globals()[lora.pop("subclass", "CanonicalLoRA")]
    kind(**lora)(chunks)
    trainer = Trainer(chunks)
    found = []
    for step in ("", *steps):
        if step:
            with quiet():
                getattr(trainer, step)()
        found += [_ask(trainer.chunks, file, step) for file in files]
    record_run(trainer.chunks, Path(files[0]).parent)
    found.append(_ask(trainer.chunks, str(Path(files[0]).parent / RECORD_NAME), "recorded"))
    trainer.release()
    return found


def _ask(chunks: list[Any], file: str, step: str) -> dict[str, Any]:
    verdict = judge(chunks, Path(file), Ranks(torch.device("cpu")))
    return {"code": int(verdict.code), "text": f"after {step or 'surgery'}: {verdict.text}"}
