"""A user's function as a model: what it is given, what it may return, and what is said when it
fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from clora import CanonicalLoRA
from clora.errors import CloraError
from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.pipeline import plan_job
from clora_inspect.sources.errors import BuildError

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = """
from torch import nn

def plain(pre_process, layout):
    assert pre_process is True
    return nn.ModuleDict({"proj": nn.Linear(8, 4 * layout.cp)})

class Provider:
    tensor_model_parallel_size = 0
    def provide(self, post_process):
        assert post_process is True
        return nn.Sequential(nn.Linear(8, 2 + self.tensor_model_parallel_size))

def raises():
    raise RuntimeError("no licence")

def returns_text():
    return "model"
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "my_models.py"
    path.write_text(SOURCE)
    return path


@pytest.mark.parametrize(
    ("function", "target", "layout", "b_shape"),
    [
        ("plain", "proj", Layout(), (4, 32)),
        ("plain", "proj", Layout(cp=2), (8, 32)),
        ("Provider", "0", Layout(tp=2), (4, 32)),
    ],
)
def test_the_model_it_returns_is_planned(
    source: Path, function: str, target: str, layout: Layout, b_shape: tuple[int, ...]
) -> None:
    plan = plan_job(Job(model=f"{source}:{function}", layout=layout, lora=CanonicalLoRA(target_modules=[target])))
    assert [p.b_shape for c in plan.rank_classes for p in c.placements] == [b_shape]
    assert plan.rank_classes[0].placements[0].adapter_class == "LinearAdapter"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("{path}:raises", ("raised RuntimeError: no licence", "my_models.py:")),
        ("{path}:returns_text", ("returned str", "torch.nn.Module")),
        ("{path}:returns_txt", ("has no returns_txt", "returns_text")),
        ("{path}x.py:plain", ("no file",)),
        ("no_such_module:plain", ("no module no_such_module",)),
    ],
)
def test_a_failure_names_the_function_and_the_cause(source: Path, name: str, words: tuple[str, ...]) -> None:
    with pytest.raises(CloraError) as raised:
        plan_job(Job(model=name.format(path=source)))
    assert [word for word in words if word not in str(raised.value)] == []


def test_a_file_that_misses_another_file_is_not_called_missing_itself(tmp_path: Path) -> None:
    path = tmp_path / "reads_settings.py"
    path.write_text("open('settings.yaml')\n")
    with pytest.raises(BuildError, match=r"importing .*reads_settings.py raised FileNotFoundError.*settings.yaml"):
        plan_job(Job(model=f"{path}:build"))
