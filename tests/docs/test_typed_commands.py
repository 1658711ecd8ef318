"""Every command line of clora-inspect that is written anywhere could be typed: the command and its
options exist. Those that no test runs, because they need a GPU or a file, are held by this alone.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from pages import PAGES, ROOT, story_of
from story import Command, File, blocks_of
from typed import fault_of, is_command, options_of, words_of_lines

from clora_inspect.cli.root import LazyGroup, root

OTHER_FILES = ("examples", "action.yml", ".pre-commit-hooks.yaml", "Makefile", ".github", "pyproject.toml")
INLINE = re.compile(r"(?<!`)`(?!`)([^`]+)`(?!`)")
FENCED = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)


OURS = options_of(root) | set(LazyGroup.aliases) | {"--clora-update", "--since"}
"""Options of clora-inspect, of our plugin of pytest and of the census."""

OTHERS = {"--max-lora-rank", "--lora-backend", "--experts-shared-outer-loras", "--ckpt-format"}
"""Options of serving engines and of Megatron-LM."""


def prose_of(text: str) -> str:
    return FENCED.sub("", text)


def written_in(name: str) -> list[list[str]]:
    """Return the words of each command line of a page: in its blocks and in its prose."""
    text = (ROOT / name).read_text(encoding="utf-8")
    found = []
    for block in blocks_of(text, name):
        shown = [line for line in block.lines if block.language != "console" or line.startswith(("$ ", "> "))]
        lines = "\n".join(line.removeprefix("$ ").removeprefix("> ") for line in shown)
        found += [words for words in words_of_lines(lines) if block.language != "python"]
    for code in INLINE.findall(prose_of(text)):
        flat = " ".join(code.split())
        words = flat.split()
        if flat.startswith(("clora-inspect ", "python -m clora_inspect ")):
            found += words_of_lines(flat)
        elif is_command(words) and any(word.startswith("--") for word in words):
            # `plan --memory` and `check --recorded`, in prose that is about clora-inspect.
            found += [without_lone_option(words) for words in words_of_lines(f"clora-inspect {flat}")]
    return found


def without_lone_option(words: list[str]) -> list[str]:
    """Give the last option a value if it wants one."""
    return [*words, "VALUE"] if "requires an argument" in (fault_of(words) or "") else words


def lines_of_file(path: Path) -> list[list[str]]:
    text = path.read_text(encoding="utf-8")
    # The name of a hook or a step is no command.
    text = re.sub(r"^ *-? *name: .*$", "", text, flags=re.MULTILINE)
    bare = "\n".join(re.sub(r"^\s*#+ ?|\s+#.*$", "", line) for line in re.sub(r"\\\n\s*(# )?", " ", text).splitlines())
    return [words for words in words_of_lines(bare) if is_command(words[:1]) or (words and words[0].startswith("-"))]


def tracked(*names: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z", *names], cwd=ROOT, capture_output=True, check=True, text=True)
    return [ROOT / name for name in listed.stdout.split("\0") if name]


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_could_be_typed(page: str) -> None:
    faults = [(" ".join(words), fault) for words in written_in(page) if (fault := fault_of(words))]
    assert faults == []


@pytest.mark.parametrize("page", PAGES)
def test_the_programs_of_a_page_are_there(page: str) -> None:
    """Files, modules and targets of make that no test runs; `train.py` is the reader's own."""
    steps = story_of(page).steps
    titles = {"train.py"} | {step.name for step in steps if isinstance(step, File)}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    not_run = [step.text for step in steps if isinstance(step, Command) and step.mark]
    in_prose = [" ".join(code.split()) for code in INLINE.findall(prose_of((ROOT / page).read_text(encoding="utf-8")))]
    missing = [(command, what) for command in (*not_run, *in_prose) for what in missing_in(command, titles, makefile)]
    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_the_options_in_prose_exist(page: str) -> None:
    """`--procs N` alone, without its command: an option of ours, or of a program in `OTHERS`."""
    prose = [" ".join(code.split()) for code in INLINE.findall(prose_of((ROOT / page).read_text(encoding="utf-8")))]
    unknown = {code.split()[0].partition("=")[0] for code in prose if re.match(r"--[a-z]", code)}
    assert unknown - OURS - OTHERS == set()


def missing_in(command: str, titles: set[str], makefile: str) -> list[str]:
    """Return what a command of `python`, `pytest` or `make` names and is not there."""
    words = [word for word in command.split() if not re.fullmatch(r"[A-Z_]+=\S*", word)]
    variables = [word.partition("=")[0] for word in command.split() if re.fullmatch(r"[A-Z_]+=\S*", word)]
    match words:
        case ["python" | "python3", "-m", module, *_] if module.startswith(("clora", "tests")):
            path = ROOT / module.replace(".", "/")
            return [] if path.is_dir() or path.with_suffix(".py").is_file() else [module]
        case ["python" | "python3" | "pytest", *rest]:
            files = [word.partition("::")[0] for word in rest if re.fullmatch(r"[\w./-]+\.py(::\S*)?", word)][:1]
            return [file for file in files if file not in titles and not (ROOT / file).is_file()]
        case ["make", target, *_]:
            asked = [f"\n{target}:", *(f"$({variable})" for variable in variables)]
            return [each for each in asked if each not in makefile]
    return []


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        ("make upstream MCORE=../Megatron-LM", []),
        ("make upstreams", ["\nupstreams:"]),
        ("make upstream MCOR=..", ["$(MCOR)"]),
        ("PYTHONPATH=.. pytest tests/docs/test_pages.py -k cost", []),
        ("pytest tests/docs/test_page.py", ["tests/docs/test_page.py"]),
        ("python written.py", []),
        ("python other.py", ["other.py"]),
        ("python -m clora_inspect.virtual.census ..", []),
        ("python -m clora_inspect.census ..", ["clora_inspect.census"]),
        ("python -m venv .venv", []),
    ],
)
def test_a_missing_program_is_seen(command: str, missing: list[str]) -> None:
    assert missing_in(command, {"written.py"}, (ROOT / "Makefile").read_text(encoding="utf-8")) == missing


def test_the_commands_of_other_files_could_be_typed() -> None:
    found = [(path, words) for path in tracked(*OTHER_FILES) for words in lines_of_file(path)]
    assert len(found) > 10
    faults = [(path, " ".join(words), fault) for path, words in found if (fault := fault_of(words))]
    assert faults == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("clora-inspect plan a --tp 2 | head -1", ["plan", "a", "--tp", "2"]),
        ("CLORA_INSPECT_TP=2 clora-inspect info > info.txt 2>&1", ["info"]),
        ("torchrun --nproc-per-node 2 -m clora_inspect verify a # ranks", ["verify", "a"]),
        ("clora-inspect check 'a b' 2>errors; echo", ["check", "a b"]),
        ("srun -N 2 .venv/bin/clora-inspect verify a &&\nls", ["verify", "a"]),
    ],
)
def test_the_words_of_a_line_are_found(line: str, words: list[str]) -> None:
    assert words_of_lines(line) == [words]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("plan JOB --tp N --set model.FIELD=VALUE", None),
        ("plan JOB --memory ...", None),
        ("--check --no-progress", None),
        ("help plan", None),
        ("COMMAND --help", None),
        ("gate FILE -- torchrun --nproc-per-node 2 train.py", None),
        ("-C folder --config a.toml config init", None),
        ("plan JOB --memori", "No such option"),
        ("plan JOB --tp two", "two"),
        ("check -f xml", "xml"),
        ("plans JOB", "no command 'plans'"),
        ("snapshot acept JOB", "acept"),
        ("plan JOB JOB", "unexpected: JOB"),
        ("plan JOB --tp", "requires an argument"),
    ],
)
def test_a_wrong_command_has_a_fault(line: str, fault: str | None) -> None:
    found = fault_of(line.split())
    assert found is None if fault is None else fault in str(found)
