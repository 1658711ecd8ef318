"""A user's model in a pipeline: what megatron-core's schedules read from it and exchange is looked
at before they run, so that no rank dies of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from clora import CanonicalLoRA
from clora.errors import LayoutError
from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.verify.job import verify
from clora_inspect.verify.report import ProofStatus
from clora_inspect.verify.request import Request

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = """
import torch
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_with_transformer_engine_spec
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.module import MegatronModule
from torch import nn


def language_model(layout, pre_process, post_process):
    config = TransformerConfig(
        num_layers=2, hidden_size=32, num_attention_heads=4, add_bias_linear=False,
        pipeline_model_parallel_size=layout.pp, pipeline_dtype=torch.float32,
    )
    return GPTModel(
        config, get_gpt_layer_with_transformer_engine_spec(), vocab_size=64, max_sequence_length=32,
        position_embedding_type="rope", pre_process=pre_process, post_process=post_process,
    )


class Around:
    def set_input_tensor(self, tensor):
        self.model.set_input_tensor(tensor)

    def forward(self, tokens, positions, mask, labels=None):
        return self.hand_on(self.model(tokens, positions, mask))

    def hand_on(self, states):
        return states if self.model.post_process else self.change(states)

    def change(self, states):
        return states


class Plain(Around, nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model, self.config = model, model.config


class Bare(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model


class Deaf(Bare):
    def __init__(self, model):
        super().__init__(model)
        self.config = model.config


class Megatron(Around, MegatronModule):
    def __init__(self, model):
        super().__init__(model.config)
        self.model = model


class Half(Plain):
    def change(self, states):
        return states.half()


class RowsFirst(Plain):
    def change(self, states):
        return states.transpose(0, 1)


class Named(Plain):
    def change(self, states):
        return {"states": states}


class Raising(Plain):
    def forward(self, *arguments, **named):
        if self.model.post_process:
            raise ValueError("not on this stage")
        return super().forward(*arguments, **named)


def bare(layout, pre_process=True, post_process=True):
    return Bare(language_model(layout, pre_process, post_process))


def deaf(layout, pre_process=True, post_process=True):
    return Deaf(language_model(layout, pre_process, post_process))


def no_flag(layout, pre_process=True, post_process=True):
    return Megatron(language_model(layout, pre_process, post_process))


def no_share(layout, pre_process=True, post_process=True):
    model = Megatron(language_model(layout, pre_process, post_process))
    model.pre_process = pre_process
    return model


def shared(layout, pre_process=True, post_process=True):
    model = no_share(layout, pre_process, post_process)
    model.share_embeddings_and_output_weights = True
    return model


def complete(layout, pre_process=True, post_process=True):
    model = no_share(layout, pre_process, post_process)
    model.share_embeddings_and_output_weights = False
    return model


def plain(layout, pre_process=True, post_process=True):
    return Plain(language_model(layout, pre_process, post_process))


def half(layout, pre_process=True, post_process=True):
    return Half(language_model(layout, pre_process, post_process))


def rows_first(layout, pre_process=True, post_process=True):
    return RowsFirst(language_model(layout, pre_process, post_process))


def named(layout, pre_process=True, post_process=True):
    return Named(language_model(layout, pre_process, post_process))


def raising(layout, pre_process=True, post_process=True):
    return Raising(language_model(layout, pre_process, post_process))
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "functions.py"
    path.write_text(SOURCE)
    return path


def request_of(source: Path, function: str, *proofs: str, pp: int = 2) -> Request:
    lora = CanonicalLoRA(target_modules=["linear_proj"], dim=4)
    return Request(job=Job(model=f"{source}:{function}", lora=lora, layout=Layout(pp=pp)), procs=pp, proofs=proofs)


MISSING = {
    "bare": ("Bare (functions.py:", "which has no config: megatron-core's pipeline schedule reads it"),
    "deaf": ("Deaf (functions.py:", "which has no set_input_tensor"),
    "no_flag": ("Megatron (functions.py:", "which has no pre_process: finalize_model_grads reads it"),
    "no_share": ("Megatron (functions.py:", "which has no share_embeddings_and_output_weights"),
    "shared": ("Megatron (functions.py:", "which has no shared_embedding_or_output_weight"),
}


@pytest.mark.parametrize("function", MISSING)
def test_an_attribute_that_a_pipeline_needs_is_asked_for_before_a_rank_starts(source: Path, function: str) -> None:
    with pytest.raises(LayoutError) as caught:
        verify(request_of(source, function))
    assert [words for words in MISSING[function] if words not in str(caught.value)] == []
    assert f"functions.py:{function} returns " in str(caught.value)


def test_on_one_stage_none_of_them_is_asked_for(source: Path) -> None:
    assert verify(request_of(source, "bare", "surgery", pp=1)).ok


STATES = {
    "half": "Stage 0 hands on states in float16, and megatron-core's pipeline schedule takes one tensor [tokens, 4 rows",
    "rows_first": "Stage 0 hands on [4, 16, 32], and",
    "named": "Stage 0 hands on a dict, and",
    "raising": "does not run before anything is done to it: ValueError: not on this stage.",
}


@pytest.mark.parametrize(
    "function", ["half", *(pytest.param(name, marks=pytest.mark.nightly) for name in STATES if name != "half")]
)
def test_states_that_no_schedule_can_exchange_are_a_failure_and_kill_no_rank(source: Path, function: str) -> None:
    report = verify(request_of(source, function, "causality"))
    proofs = {proof.proof: proof for proof in report.proofs}
    assert proofs["base-twice"].status is ProofStatus.FAILED
    assert STATES[function] in proofs["base-twice"].detail
    assert proofs["causality"].status is ProofStatus.SKIPPED
    assert not report.ok


@pytest.mark.nightly
@pytest.mark.parametrize("function", ["plain", "complete"])
def test_a_module_around_a_language_model_is_proved_in_a_pipeline(source: Path, function: str) -> None:
    proofs = {proof.proof: proof.status for proof in verify(request_of(source, function)).proofs}
    assert ProofStatus.FAILED not in proofs.values()
    # megatron-core wraps and saves its own modules only.
    assert (proofs["layout"] is ProofStatus.PASSED) == (function == "complete")
