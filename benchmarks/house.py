"""Count how well the code is kept: sizes of folders, long lines, docstrings, comments, import
cycles, lists that are kept twice.

    python benchmarks/house.py                  # this checkout
    python benchmarks/house.py OTHER_CHECKOUT   # another checkout and this one, side by side
    python benchmarks/house.py --list           # with each place that was counted

The stand-ins for foreign packages are left out: they have the shape of their originals.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
import tokenize
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

STAND_INS = {"transformer_engine", "mamba_ssm", "causal_conv1d", "fla", "fast_hadamard_transform"}
SHORT_DOCSTRING = 4
LONG_FUNCTION = 50
SHARED_STRINGS = 5
"""Strings that two literal lists must share to count as one list kept twice."""

CYCLES = """
import sys, grimp
sys.path.insert(0, "")
graph = grimp.build_graph("clora", "clora_inspect", exclude_type_checking_imports=False, cache_dir=None)
for package in ("clora", "clora_inspect"):
    for broken in [package, *sorted(m for m in graph.find_descendants(package) if graph.find_children(m))]:
        if ".virtual" in broken:
            continue
        for importer, imported in sorted(graph.nominate_cycle_breakers(broken)):
            print(f"{importer} -> {imported}")
"""


class Source:
    """The parsed files of the two packages in one checkout."""

    def __init__(self, root: Path) -> None:
        self.root = root
        files = (path for package in ("clora", "clora_inspect") for path in sorted((root / package).rglob("*.py")))
        self.files = [path for path in files if not STAND_INS & set(path.parts)]
        self.text = {path: path.read_text() for path in self.files}
        self.trees = {path: ast.parse(text) for path, text in self.text.items()}

    def place(self, path: Path, line: int) -> str:
        """Return a place as `folder/file.py:12`."""
        return f"{path.relative_to(self.root)}:{line}"

    def nodes(self, *kinds: type[ast.AST]) -> Iterator[tuple[Path, ast.AST]]:
        """Yield each node of these kinds, with its file."""
        for path, tree in self.trees.items():
            yield from ((path, node) for node in ast.walk(tree) if isinstance(node, kinds))


def largest_folders(source: Source) -> list[str]:
    """Return the folders with the most Python files, the largest first."""
    counts = Counter(path.parent.relative_to(source.root) for path in source.files if path.name != "__init__.py")
    return [f"{folder}: {count}" for folder, count in counts.most_common(5)]


def lines_over(source: Source, width: int) -> list[str]:
    """Return the lines of more than `width` columns."""
    return [
        source.place(path, number)
        for path, text in source.text.items()
        for number, line in enumerate(text.splitlines(), 1)
        if len(line) > width
    ]


def short_docstrings(source: Source) -> list[str]:
    """Return the docstrings of at most `SHORT_DOCSTRING` words."""
    found = []
    for path, node in source.nodes(ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module):
        words = ast.get_docstring(node)  # type: ignore[arg-type]
        if words is not None and len(words.split()) <= SHORT_DOCSTRING:
            found.append(f"{source.place(path, getattr(node, 'lineno', 1))}: {words}")
    return found


def comment_and_code_lines(source: Source) -> tuple[int, int]:
    """Return the number of lines with a comment and with code. Docstrings are neither, and so are
    comments that only direct a tool.
    """
    comments = code = 0
    directives = ("# noqa", "# type:", "#!")
    skipped = {
        tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
    }  # fmt: skip
    for path in source.files:
        docstrings = _docstring_lines(source.trees[path])
        lines = set()
        with path.open("rb") as file:
            for token in tokenize.tokenize(file.readline):
                if token.type == tokenize.COMMENT and not token.string.startswith(directives):
                    comments += 1
                elif token.type not in skipped and token.type != tokenize.ENCODING:
                    lines.update(range(token.start[0], token.end[0] + 1))
        code += len(lines - docstrings)
    return comments, code


def _docstring_lines(tree: ast.AST) -> set[int]:
    strings = (
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    )
    return {line for node in strings for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}


def long_functions(source: Source) -> list[str]:
    """Return the functions of more than `LONG_FUNCTION` lines."""
    found = []
    for path, node in source.nodes(ast.FunctionDef, ast.AsyncFunctionDef):
        length = node.end_lineno - node.lineno + 1  # type: ignore[attr-defined]
        if length > LONG_FUNCTION:
            found.append(f"{source.place(path, node.lineno)}: {node.name}, {length} lines")  # type: ignore[attr-defined]
    return found


def dynamic_attributes(source: Source) -> list[str]:
    """Return the calls of `getattr` and `hasattr`."""
    return [
        source.place(path, node.lineno)  # type: ignore[attr-defined]
        for path, node in source.nodes(ast.Call)
        if isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr")  # type: ignore[attr-defined]
    ]


def import_cycles(source: Source) -> list[str]:
    """Return the smallest set of imports whose removal breaks all cycles between siblings. Imports
    for type checking count.
    """
    done = subprocess.run(
        [sys.executable, "-P", "-c", CYCLES], cwd=source.root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"the imports of {source.root} cannot be read; is the dev extra installed?\n{done.stderr}")
    return done.stdout.splitlines()


def lists_kept_twice(source: Source) -> list[str]:
    """Return pairs of literal lists in different files, one with all strings of the other."""
    literals = [
        (source.place(path, node.lineno), path, words)  # type: ignore[attr-defined]
        for path, node in source.nodes(ast.List, ast.Tuple, ast.Set, ast.Dict)
        if len(words := _strings(node)) >= SHARED_STRINGS
    ]
    return [
        f"{place} ~ {other_place}: {', '.join(sorted(words & other_words))}"
        for (place, path, words), (other_place, other_path, other_words) in combinations(literals, 2)
        if path != other_path and (words <= other_words or other_words <= words)
    ]


def _strings(node: ast.AST) -> set[str]:
    elements = node.keys if isinstance(node, ast.Dict) else node.elts  # type: ignore[attr-defined]
    return {each.value for each in elements if isinstance(each, ast.Constant) and isinstance(each.value, str)}


def same_names(source: Source) -> list[str]:
    """Return the public classes whose name is defined in several files."""
    homes: dict[str, list[str]] = {}
    for path, tree in source.trees.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(source.place(path, node.lineno))
    return [f"{name}: {', '.join(places)}" for name, places in sorted(homes.items()) if len(places) > 1]


def figures(root: Path) -> dict[str, tuple[str, list[str]]]:
    """Return name -> (value, places that it counts) for each figure of the checkout at `root`."""
    source = Source(root)
    lines = sum(text.count("\n") for text in source.text.values())
    folders = largest_folders(source)
    comments, code = comment_and_code_lines(source)
    listed = {
        "lines over 100 columns": lines_over(source, 100),
        "lines over 120 columns": lines_over(source, 120),
        "docstrings of four words or fewer": short_docstrings(source),
        "functions over 50 lines": long_functions(source),
        "import cycles, type-only imports included": import_cycles(source),
        "literal lists kept twice": lists_kept_twice(source),
        "class names in several files": same_names(source),
    }
    dynamic = dynamic_attributes(source)
    return {
        "Python files": (str(len(source.files)), []),
        "lines": (f"{lines:,}", []),
        "files in the largest folders": (" · ".join(folders[:3]), folders),
        **{name: (str(len(places)), places) for name, places in listed.items()},
        "comments per line of code": (f"{comments / code:.3f}", []),
        "getattr and hasattr per 1,000 lines": (f"{1000 * len(dynamic) / lines:.1f}", dynamic),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", nargs="?", type=Path, help="another checkout, such as an older one")
    parser.add_argument("--list", action="store_true", help="print each place that was counted in this checkout")
    options = parser.parse_args()
    here = figures(Path(__file__).resolve().parent.parent)
    other = figures(options.other.resolve()) if options.other else None
    print("| figure |" + (" before |" if other else "") + " here |")
    print("|---|" + ("---|" if other else "") + "---|")
    for name, (value, _) in here.items():
        before = f" {other[name][0]} |" if other else ""
        print(f"| {name} |{before} {value} |")
    if options.list:
        for name, (_, places) in here.items():
            print(f"\n## {name}", *places, sep="\n")


if __name__ == "__main__":
    main()
