"""The notebook runs, cell after cell, and shows what its file shows.

Run without Jupyter, whose client and kernel are thirty packages: a cell is what Python does with
`single` input. `UPDATE_GOLDENS=1` writes the outputs into the file anew.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).parents[2] / "examples" / "inspect.ipynb"

RUNNER = """\
import ast, contextlib, io, json, sys

def run(source, number, namespace):
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    printed, outputs, value = io.StringIO(), [], None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, f"cell {number}", "exec"), namespace)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), namespace)
    if printed.getvalue():
        outputs.append({"name": "stdout", "output_type": "stream", "text": printed.getvalue().splitlines(True)})
    if value is not None:
        data = {"text/plain": repr(value).splitlines(True)}
        if hasattr(value, "_repr_html_"):
            data["text/html"] = value._repr_html_().splitlines(True)
        outputs.append({"data": data, "execution_count": number, "metadata": {}, "output_type": "execute_result"})
    return outputs

# The cells' names are those of `__main__`, as in a notebook.
cells = json.load(sys.stdin)
print(json.dumps([run(source, number, globals()) for number, source in enumerate(cells, 1)]))
"""


def test_the_notebook_runs_and_shows_what_its_file_shows(tmp_path: Path) -> None:
    notebook = json.loads(NOTEBOOK.read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    ran = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps(["".join(cell["source"]) for cell in cells]),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=300,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    outputs = json.loads(ran.stdout)
    assert (tmp_path / "placements.svg").read_text().startswith("<svg")
    if os.environ.get("UPDATE_GOLDENS"):
        for number, (cell, shown) in enumerate(zip(cells, outputs, strict=True), 1):
            cell |= {"execution_count": number, "outputs": shown}
        NOTEBOOK.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
    assert [_without_release(cell["outputs"]) for cell in cells] == [_without_release(shown) for shown in outputs]


def _without_release(outputs: list[dict[str, Any]]) -> str:
    return re.sub(r"megatron-core [\w.]+", "megatron-core", json.dumps(outputs, indent=1, sort_keys=True))
