"""The census says what megatron-core cannot be imported without, and runs nothing of its tree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from textwrap import dedent

import pytest

from clora_inspect.virtual.census import core_tree, take_census

TREE = {
    "package_info": "MAJOR = 0\nMINOR = 99\nPATCH = 1\nPRE_RELEASE = 'rc2'\n",
    "extensions/transformer_engine": """
        try:
            import transformer_engine as te
            HAVE_TE = True
        except ImportError:
            HAVE_TE = False
        """,
}
"""Files of the small tree, without suffix -> text. A case adds one more, `asker`."""

CASES: dict[str, tuple[str, str, bool, str]] = {
    "import": ("import deep_gemm", "deep_gemm", False, "unguarded"),
    "from": ("from deep_gemm.jit import build", "deep_gemm.jit.build", False, "unguarded"),
    "stand-in has": (
        "from transformer_engine.pytorch import Linear",
        "transformer_engine.pytorch.Linear",
        True,
        "unguarded",
    ),
    "stand-in has it by a star": (
        "from transformer_engine.pytorch import RMSNorm",
        "transformer_engine.pytorch.RMSNorm",
        True,
        "unguarded",
    ),
    "stand-in lacks": (
        "from transformer_engine.pytorch import Teleport",
        "transformer_engine.pytorch.Teleport",
        False,
        "unguarded",
    ),
    "module that the stand-in lacks": (
        "import mamba_ssm.ops.warp",
        "mamba_ssm.ops.warp",
        False,
        "unguarded",
    ),
    "attribute": (
        "import transformer_engine as te\nclass Layer(te.pytorch.Teleport.inner): ...",
        "transformer_engine.pytorch.Teleport",
        False,
        "unguarded",
    ),
    "attribute of a module under another name": (
        "from transformer_engine import pytorch as tp\nbase = tp.Teleport",
        "transformer_engine.pytorch.Teleport",
        False,
        "unguarded",
    ),
    "try": ("try:\n    import deep_gemm\nexcept ImportError:\n    pass", "deep_gemm", False, "try"),
    "try and raise again": (
        "try:\n    import deep_gemm\nexcept ImportError:\n    raise RuntimeError('install it')",
        "deep_gemm",
        False,
        "unguarded",
    ),
    "try that catches something else": (
        "try:\n    import deep_gemm\nexcept KeyError:\n    pass",
        "deep_gemm",
        False,
        "unguarded",
    ),
    "an attribute raises no ImportError": (
        "import transformer_engine as te\ntry:\n    te.Teleport\nexcept ImportError:\n    pass",
        "transformer_engine.Teleport",
        False,
        "unguarded",
    ),
    "suppress": (
        "from contextlib import suppress\nwith suppress(ImportError):\n    import deep_gemm",
        "deep_gemm",
        False,
        "try",
    ),
    "fallback that is needed": (
        "try:\n    import deep_gemm\nexcept ImportError:\n    import cutlass",
        "cutlass",
        False,
        "unguarded",
    ),
    "fallback that is not needed": (
        "try:\n    import transformer_engine\nexcept ImportError:\n    import cutlass",
        "cutlass",
        False,
        "try",
    ),
    "after a try that fails": (
        "try:\n    import deep_gemm\nexcept ImportError:\n    pass\nelse:\n    import cutlass",
        "cutlass",
        False,
        "try",
    ),
    "function": ("def run():\n    import deep_gemm", "deep_gemm", False, "function"),
    "lambda": ("run = lambda: __import__('deep_gemm')", "deep_gemm", False, "function"),
    "decorator": ("import deep_gemm\n@deep_gemm.jit\ndef run(): ...", "deep_gemm.jit", False, "unguarded"),
    "class body": ("class Layer:\n    import deep_gemm", "deep_gemm", False, "unguarded"),
    "by name": (
        "from importlib import import_module\nimport_module('deep_gemm.jit')",
        "deep_gemm.jit",
        False,
        "unguarded",
    ),
    "hasattr": (
        "import transformer_engine as te\nhasattr(te.pytorch, 'Teleport')",
        "transformer_engine.pytorch.Teleport",
        False,
        "try",
    ),
    "flag that is false": (
        "try:\n    import deep_gemm\n    HAVE = True\nexcept ImportError:\n    HAVE = False\nif HAVE:\n    import cutlass",
        "cutlass",
        False,
        "flag",
    ),
    "flag that is true guards nothing": (
        """
        from megatron.core.extensions.transformer_engine import HAVE_TE
        if HAVE_TE:
            from transformer_engine.pytorch import Teleport
        """,
        "transformer_engine.pytorch.Teleport",
        False,
        "unguarded",
    ),
    "flag that is negated": (
        "from megatron.core.extensions.transformer_engine import HAVE_TE\nif not HAVE_TE:\n    import cutlass",
        "cutlass",
        False,
        "flag",
    ),
    "flag that nobody knows": (
        "HAVE_ROCKET = ask_the_machine()\nif HAVE_ROCKET:\n    import cutlass",
        "cutlass",
        False,
        "flag",
    ),
    "release that the stand-in is": (
        "if is_te_min_version('1.0'):\n    from transformer_engine.pytorch import Teleport",
        "transformer_engine.pytorch.Teleport",
        False,
        "unguarded",
    ),
    "release that it is not": (
        "if is_te_min_version('99.0'):\n    from transformer_engine.pytorch import Teleport",
        "transformer_engine.pytorch.Teleport",
        False,
        "flag",
    ),
    "types only": (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import deep_gemm",
        "deep_gemm",
        False,
        "flag",
    ),
    "a mock in the package's place": (
        "try:\n    import deep_gemm\nexcept ImportError:\n    deep_gemm = MagicMock()\n@deep_gemm.jit\ndef run(): ...",
        "deep_gemm.jit",
        False,
        "try",
    ),
    "annotation": ("import deep_gemm\ndef run(x: deep_gemm.Tensor): ...", "deep_gemm.Tensor", False, "unguarded"),
    "another package of megatron": ("import megatron.training.utils", "megatron.training.utils", False, "unguarded"),
    "module that the tree lacks": ("from megatron.core.gone import thing", "megatron.core.gone", False, "unguarded"),
}
"""What the file `asker` says -> the name, whether the virtual world has it, and its guard."""


def _tree(folder: Path, **files: str) -> Path:
    for name, text in {**TREE, **files}.items():
        file = folder / "megatron" / "core" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(text), encoding="utf-8")
    return folder


def _run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "clora_inspect.virtual.census", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("case", CASES)
def test_a_name_has_its_guard(case: str, tmp_path: Path) -> None:
    text, name, has, guard = CASES[case]
    report = take_census(_tree(tmp_path, asker=text))
    asked = {entry.name: entry for entry in report.names}[name]
    assert asked.has == has
    assert [place.guard for place in asked.places if place.file == "megatron/core/asker.py"] == [guard]
    assert report.is_clean == (has or guard != "unguarded")


def test_an_annotation_that_is_not_evaluated_asks_for_nothing(tmp_path: Path) -> None:
    text = "from __future__ import annotations\nimport fla\ndef run(x: fla.Tensor): ...\ny: fla.Other"
    assert [name.name for name in take_census(_tree(tmp_path, asker=text)).gaps] == []


def test_a_module_of_a_side_package_counts_once_it_is_imported(tmp_path: Path) -> None:
    aside = {"inference/server": "import deep_gemm"}
    assert take_census(_tree(tmp_path, **aside)).is_clean
    report = take_census(_tree(tmp_path, **aside, asker="from .inference import server"))
    assert [name.name for name in report.gaps] == ["deep_gemm"]


def test_a_module_that_only_functions_import_does_not_count(tmp_path: Path) -> None:
    lazy = {"kernels": "import deep_gemm", "asker": "def run():\n    from megatron.core import kernels"}
    assert take_census(_tree(tmp_path, **lazy)).is_clean


def test_a_try_fails_where_the_module_that_it_imports_does(tmp_path: Path) -> None:
    text = """
        try:
            from megatron.core.kernels import run
            HAVE_KERNELS = True
        except ImportError:
            HAVE_KERNELS = False
        if HAVE_KERNELS:
            import cutlass
        """
    report = take_census(_tree(tmp_path, asker=text, kernels="import deep_gemm"))
    assert report.is_clean
    assert [name.places[0].guard for name in report.names if name.name == "cutlass"] == ["flag"]


@pytest.mark.parametrize("inside", [".", "megatron", "megatron/core"])
def test_the_path_may_be_any_folder_of_the_tree(inside: str, tmp_path: Path) -> None:
    report = take_census(_tree(tmp_path) / inside)
    assert (report.release, report.files, report.is_clean) == ("0.99.1rc2", 2, True)


@pytest.mark.parametrize("start", [b"\xef\xbb\xbf", b"# -*- coding: latin-1 -*-\nx = '\xe9'\n"])
def test_a_file_may_have_any_encoding_that_python_reads(start: bytes, tmp_path: Path) -> None:
    (_tree(tmp_path) / "megatron/core/asker.py").write_bytes(start + b"import deep_gemm\n")
    report = take_census(tmp_path)
    assert [name.name for name in report.gaps] == ["deep_gemm"]
    assert report.unread == ()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def f(:\n", "cannot parse it: line 1"),
        ("a = '\0'\n", "null bytes"),
        ("x = " + "-" * 100_000 + "1\n", "nested"),
    ],
)
def test_a_file_that_cannot_be_parsed_is_named(text: str, reason: str, tmp_path: Path) -> None:
    report = take_census(_tree(tmp_path, asker=text))
    assert [file.file for file in report.unread] == ["megatron/core/asker.py"]
    assert reason in report.unread[0].reason
    assert not report.is_clean


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(_tree(tmp_path) / "megatron/core/pipe.py")
    assert [file.reason for file in take_census(tmp_path).unread] == ["it is a pipe, not a regular file"]


def test_a_folder_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_tree, "LARGEST_CORE_TREE", 1)
    with pytest.raises(core_tree.NotACoreTreeError, match="more than 1 modules below megatron/core"):
        take_census(_tree(tmp_path))


def test_the_command_says_what_is_missing_and_runs_nothing(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    tree = _tree(tmp_path, asker=f"open({str(trap)!r}, 'w')\nimport deep_gemm\nfrom fla.ops import teleport\n")
    done = _run(tree)
    assert (done.returncode, done.stderr) == (1, "")
    assert "megatron/core/asker.py:2: deep_gemm is asked for without a guard, and missing" in done.stdout
    assert "megatron/core/asker.py:3: fla.ops.teleport is asked for without a guard, and missing" in done.stdout
    as_json = _run(tree, "--format", "json")
    assert as_json.returncode == 1
    names = {name["name"]: name for name in json.loads(as_json.stdout)["names"]}
    assert names["deep_gemm"] == {
        "name": "deep_gemm",
        "has": False,
        "places": [{"file": "megatron/core/asker.py", "line": 2, "guard": "unguarded"}],
    }
    assert not trap.exists()


def test_names_that_another_tree_asks_for_as_well_are_left_out(tmp_path: Path) -> None:
    older = _tree(tmp_path / "older", asker="import cutlass\ntry:\n    import deep_gemm\nexcept ImportError:\n    pass")
    newer = _tree(tmp_path / "newer", asker="import cutlass\nimport deep_gemm\nimport tilelang")
    assert [name.name for name in take_census(newer).gaps] == ["cutlass", "deep_gemm", "tilelang"]
    done = _run(newer, "--since", older, "-f", "json")
    # deep_gemm was guarded there.
    assert [name["name"] for name in json.loads(done.stdout)["names"]] == ["deep_gemm", "tilelang"]
    assert done.returncode == 1


@pytest.mark.parametrize("path", ["", "nowhere", "empty"])
def test_another_folder_is_refused_with_one_sentence(path: str, tmp_path: Path) -> None:
    (tmp_path / "empty" / "megatron" / "core").mkdir(parents=True)
    done = _run(tmp_path / path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: ")
    assert str(tmp_path / path) in done.stderr
    assert "Traceback" not in done.stderr


def test_the_installed_megatron_core_asks_for_nothing_that_is_missing() -> None:
    report = take_census(Path(str(distribution("megatron-core").locate_file("."))))
    assert report.gaps == ()
    assert report.unread == ()
    names = {name.name: name for name in report.names}
    assert names["transformer_engine.pytorch.Linear"].unguarded
    assert not names["apex.multi_tensor_apply.multi_tensor_applier"].has
