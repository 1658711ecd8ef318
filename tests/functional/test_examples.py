"""The examples run as their first lines say, and show what they promise."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]

SHOWS = {
    "look.py": ["linear_fc1_up      48 adapters", "stage 1: 8 ranks, each trains 2,211,840 parameters"],
    "check/check.py": [
        'CL101 error unmatched-target: "linear_kv" matches no module',
        "did you mean: linear_k (32)",
        "exit status 0 without the mistake, 1 with it",
    ],
    "prove.py": [
        "16384 parameters will be trained",
        "B = 0 changes no bit: True",
        "exported: adapter_config.json, adapter_fingerprint.json, adapter_model.safetensors",
    ],
}


def test_every_example_is_run_here() -> None:
    # Those in your_model/ are jobs and no scripts: tests/clora_inspect/sources/test_your_model.py.
    # Those in gate/ are launched on several ranks: test_gate_examples.py.
    scripts = {str(path.relative_to(ROOT / "examples")) for path in (ROOT / "examples").rglob("*.py")}
    assert {script for script in scripts if not script.startswith(("your_model/", "gate/"))} == SHOWS.keys()


@pytest.mark.parametrize("name", SHOWS)
def test_an_example_shows_what_it_promises(tmp_path: Path, name: str) -> None:
    # A copy: checking leaves a cache beside the configuration.
    examples = shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns(".*"))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    ran = subprocess.run(
        [sys.executable, str(examples / name)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=environment,
    )
    assert ran.returncode == 0, ran.stderr
    for words in SHOWS[name]:
        assert words in ran.stdout


def library_example() -> str:
    readme = (ROOT / "README.md").read_text()
    return readme.partition("## The library")[2].partition('```python title="adapt.py"\n')[2].partition("```")[0]


def run_script(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(text)
    return subprocess.run(
        [sys.executable, "script.py"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def test_a_script_without_its_guard_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    # `quiet` would keep what the writer says.
    without_quiet = library_example().replace("with quiet(), ", "with ")
    ran = run_script(tmp_path, without_quiet.replace('if __name__ == "__main__":', "if True:"))
    assert ran.returncode == 1
    last = ran.stderr.strip().splitlines()[-1]
    assert last.startswith("clora.errors.CheckpointError: adapters cannot be written: the process that writes ended")
    assert last.endswith('Put the calls of the script below a line `if __name__ == "__main__":`.')
    # The writer says the same, and not what multiprocessing says of freeze_support().
    assert "save_adapters was called again while it was at work" in ran.stderr
    assert "freeze_support" not in ran.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["script.py"]


ON_THE_REAL_MACHINE = """
import torch
import clora

if __name__ == "__main__":
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    from megatron.core import parallel_state
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.transformer import TransformerConfig

    parallel_state.initialize_model_parallel()
    config = TransformerConfig(
        num_layers=1, hidden_size=64, num_attention_heads=4, use_cpu_initialization=True
    )
    model = GPTModel(config, get_gpt_layer_local_spec(), vocab_size=96, max_sequence_length=32)
    clora.CanonicalLoRA(target_modules=["linear_proj"], dim=4)(model)
    clora.save_adapters(model, "adapters")
"""


@pytest.mark.nightly
@pytest.mark.skipif(torch.cuda.is_available(), reason="megatron-core's writer works with CUDA")
def test_a_machine_without_cuda_is_named_as_the_cause(tmp_path: Path) -> None:
    ran = run_script(tmp_path, ON_THE_REAL_MACHINE)
    assert ran.returncode == 1
    assert "adapters cannot be written: megatron-core needs CUDA, and this process has none" in ran.stderr
    assert 'with virtual_megatron("cpu"), virtual_cluster(Layout()):' in ran.stderr
    assert not list(tmp_path.glob("adapters*"))
