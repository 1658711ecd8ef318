"""Read what megatron-core can raise while a model trains, out of its source."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

FILES = (
    "transformer/attention.py",
    "transformer/multi_latent_attention.py",
    "transformer/dot_product_attention.py",
    "transformer/experimental_attention_variant/dsa.py",
    "transformer/mlp.py",
    "transformer/moe/moe_layer.py",
    "transformer/moe/router.py",
    "transformer/moe/token_dispatcher.py",
    "transformer/moe/experts.py",
    "transformer/moe/shared_experts.py",
    "transformer/moe/moe_utils.py",
    "transformer/moe/fused_a2a.py",
    "transformer/moe/grouped_gemm_util.py",
    "transformer/transformer_layer.py",
    "transformer/transformer_block.py",
    "transformer/multi_token_prediction.py",
    "ssm/gated_delta_net.py",
    "ssm/mamba_mixer.py",
    "ssm/mamba_layer.py",
    "ssm/mamba_block.py",
    "ssm/mamba_context_parallel.py",
    "models/gpt/gpt_model.py",
    "models/gpt/fine_grained_callables.py",
    "models/mamba/mamba_model.py",
    "models/common/language_module/language_module.py",
    "models/common/embeddings/language_model_embedding.py",
    "models/common/embeddings/rope_utils.py",
    "models/common/embeddings/yarn_rotary_pos_embedding.py",
    "models/common/model_chunk_schedule_plan.py",
    "tensor_parallel/layers.py",
    "tensor_parallel/mappings.py",
    "tensor_parallel/random.py",
    "tensor_parallel/cross_entropy.py",
    "pipeline_parallel/schedules.py",
    "pipeline_parallel/p2p_communication.py",
    "pipeline_parallel/combined_1f1b.py",
    "optimizer/__init__.py",
    "optimizer/optimizer.py",
    "optimizer/distrib_optimizer.py",
    "optimizer/clip_grads.py",
    "optimizer/qk_clip.py",
    "extensions/transformer_engine.py",
)
"""Files of megatron-core whose functions run in a training step."""

NOT_IN_A_STEP = re.compile(
    r"__(init|post_init|new)__|state_dict|sh_ten|sharded|parameter_state|sharding|param_state|param_groups?\b"
    r"|_extra_state|build_model|inference|realtime_tests"
)
"""Parts of names of functions that build, save, load or serve a model."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One `raise` or `assert`."""

    file: str
    function: str
    condition: str
    """The conditions around it, outermost first, and its own where it is an assertion."""
    says: str
    """Its message, or its text where it has none."""

    @property
    def where(self) -> str:
        return f"{self.file}:{self.function}"


@cache
def refusals() -> tuple[Refusal, ...]:
    """Return every `raise` and `assert` in the functions of `FILES` that run in a training step."""
    spec = find_spec("megatron.core")
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent
    return tuple(each for file in FILES for each in _Reader(file, (root / file).read_text(encoding="utf-8")).refusals())


class _Reader:
    """Finds the refusals of one file."""

    def __init__(self, file: str, source: str) -> None:
        self._file = file
        # ast counts columns in bytes; its own get_source_segment splits the file each time.
        self._lines = [line.encode() for line in source.splitlines(keepends=True)]
        self._tree = ast.parse(source)

    def refusals(self) -> Iterator[Refusal]:
        for each in self._walk(self._tree, (), ()):
            if each.function and not NOT_IN_A_STEP.search(each.function):
                yield each

    def _walk(self, node: ast.AST, names: tuple[str, ...], conditions: tuple[str, ...]) -> Iterator[Refusal]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names, conditions = (*names, node.name), ()
        if isinstance(node, ast.Raise | ast.Assert):
            yield self._refusal(node, names, conditions)
        elif isinstance(node, ast.If):
            test = self._text(node.test)
            for children, condition in ((node.body, test), (node.orelse, f"not ({test})")):
                for child in children:
                    yield from self._walk(child, names, (*conditions, condition))
        else:
            for child in ast.iter_child_nodes(node):
                yield from self._walk(child, names, conditions)

    def _refusal(self, node: ast.Raise | ast.Assert, names: tuple[str, ...], conditions: tuple[str, ...]) -> Refusal:
        if isinstance(node, ast.Raise):
            return Refusal(self._file, ".".join(names), " and ".join(conditions), self._text(node))
        test = self._text(node.test)
        says = self._text(node.msg) if node.msg else f"assert {test}"
        return Refusal(self._file, ".".join(names), " and ".join((*conditions, f"not ({test})")), says)

    def _text(self, node: ast.expr | ast.stmt) -> str:
        assert node.end_lineno is not None
        lines = self._lines[node.lineno - 1 : node.end_lineno]
        lines[-1] = lines[-1][: node.end_col_offset]
        lines[0] = lines[0][node.col_offset :]
        return " ".join(b"".join(lines).decode().split())
