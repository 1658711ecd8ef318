"""Tell tiny pages with one fault each: the harness sees each fault."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest
from output import aligned, difference, rewritten
from story import Command, PageError, read_story
from telling import Telling

pytestmark = pytest.mark.xdist_group("docs")


def page_of(folder: Path, text: str) -> Path:
    page = folder / "page.md"
    page.write_text(dedent(text), encoding="utf-8")
    return page


def faults_of(
    folder: Path, text: str, programs: Path | None = None, *, slow: bool = False, update: bool = False
) -> list[str]:
    telling = Telling(read_story(page_of(folder, text), "page.md"), slow=slow, update=update)
    telling.tell(folder / "told", programs)
    return telling.faults


TRUE = """\
    # A page

    ```toml title="a/settings.toml"
    dim = 8
    ```

    ```console
    $ cat a/settings.toml
    dim = 8
    $ cd a
    $ ls \\
    > -1
    settings.toml
    $ cat missing 2>/dev/null
    $ echo $?
    1
    $ printf 'one\\ntwo\\nthree 3\\n'
    one
    ...
    three ...
    ```

    In a list:

    1. First

       ```console
       $ pwd
       .../a
       ```

    ```python
    from pathlib import Path

    Path("written").touch()
    ```

    ```console
    $ ls . ..
    .:
    settings.toml  written
    ...
    $ cat
    $ echo "$COLUMNS ${NO_COLOR:+no colour}"
    100 no colour
    ```
"""


def test_a_true_page_has_no_faults(tmp_path: Path) -> None:
    assert faults_of(tmp_path, TRUE) == []
    assert not (tmp_path / "told").exists()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("```console\n$ echo b\na\n```\n", "page.md:2: `echo b` prints something else\n- a    <- page.md:3\n+ b"),
        ("```console\n$ echo a\na\n$ true\nb\n```\n", "page.md:4: `true` prints something else\n- b    <- page.md:5"),
        ("```console\n$ printf 'a\\nb\\n'\na\n```\n", "  a\n+ b"),
        ("```console\n$ printf 'a\\nb\\nc\\n'\na\n...\nd\n```\n", "  a\n  ...\n- d    <- page.md:5\n+ c"),
        ("```console\n$ false\n```\n", "page.md:2: `false` ended with 1, and no `$ echo $?` follows"),
        ("```console\n$ false\n$ true\n```\n", "page.md:2: `false` ended with 1, and no `$ echo $?` follows"),
        ("```console\n$ (exit 2)\n$ echo $?\n1\n```\n", "- 1    <- page.md:4\n+ 2"),
        ("```console\n$ echo lost >&2\nfound\n```\n", "- found    <- page.md:3\n+ lost"),
        ("```console\n$ no-such-program\n```\n", "ended with 127"),
        ("```python\nraise SystemExit(3)\n```\n", "page.md:2: the program ended with 3"),
        ("```python\nimport no_such_module\n```\n", "No module named 'no_such_module'"),
    ],
)
def test_a_wrong_page_has_a_fault(tmp_path: Path, text: str, fault: str) -> None:
    found = faults_of(tmp_path, text)
    assert len(found) == 1
    assert fault in found[0]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("<!-- test: later -->\n```console\n$ true\n```\n", "page.md:3: unknown mark 'later'"),
        ("<!-- test: no -->\n```console\n$ true\n```\n", "the mark 'no' has a reason"),
        ("<!-- test: slow, very -->\n```console\n$ true\n```\n", "the mark 'no' has a reason, and only that one"),
        ("<!-- test: slow -->\n\nText.\n\n```console\n$ true\n```\n", "page.md:3: a mark that stands before no block"),
        (
            "```console\n$ true\n```\n<!-- test: in repository -->\n```console\n$ true\n```\n",
            "put it before the first block",
        ),
        ('```toml title="../a.toml"\n```\n', "page.md:2: the title '../a.toml' is no file in the story's own folder"),
        ('```toml title="/tmp/a.toml"\n```\n', "the title '/tmp/a.toml' is no file"),
        ('```toml title="a/../../b.toml"\n```\n', "is no file in the story's own folder"),
        ("```console\nclora-inspect info\n```\n", "page.md:2: output before the first command"),
        ("```console\n$ pip install torch\n```\n", "page.md:2: not to be run by a test, so mark it"),
        ("```console\n```\n", "an empty block"),
        ("```sh\nclora-inspect info\n```\n", "page.md:2: a command in a block of 'sh'"),
        ("```bash\n$ make check\n```\n", "page.md:2: a command in a block of 'bash'"),
        ("```text\nclora-inspect info\n```\n", "page.md:2: a command in a block of 'text'"),
        ("```\n$ make check\n```\n", "page.md:2: a command in a block of ''"),
        ("Text.\n\n    clora-inspect info\n", "page.md:3: a command without a block"),
        ("Text.\n\n\t$ ls\n", "page.md:3: a command without a block"),
        ("```console\n$ true\n", "page.md:1: a block that does not end"),
    ],
)
def test_a_page_that_breaks_the_conventions_is_refused(tmp_path: Path, text: str, fault: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(PageError) as caught:
        read_story(page, "page.md")
    assert fault in str(caught.value)


MARKED = """\
    <!-- test: gpu -->
    ```console
    $ touch gpu
    ```

    <!-- test: no, a reader does it -->
    ```console
    $ touch not
    ```

    <!-- test: slow -->
    ```console
    $ touch slow
    ```

    ```console
    $ ls
    {}
    ```
"""


def test_marked_commands_do_not_run(tmp_path: Path) -> None:
    assert faults_of(tmp_path, MARKED.format("...")) == []
    assert "+ slow" not in faults_of(tmp_path, MARKED.format("nothing"))[0]


def test_slow_commands_run_at_night(tmp_path: Path) -> None:
    assert faults_of(tmp_path, MARKED.format("slow"), slow=True) == []


def test_a_command_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("telling.TIMEOUT", 0.5)
    with pytest.raises(TimeoutError, match="sleep 100"):
        faults_of(tmp_path, "```console\n$ sleep 100\n```\n")


def test_output_is_rewritten_and_what_agrees_stays(tmp_path: Path) -> None:
    faults = faults_of(
        tmp_path,
        """\
        Text.

        ```console
        $ printf 'one\\ntwo\\nthree\\nfour 4\\nfive\\n'
        one
        ...
        tree
        four ...
        six
        $ pwd
        /
        ```

        1. A list

           ```console
           $ echo b
           a
           ```
        """,
        update=True,
    )
    assert faults == []
    assert (tmp_path / "page.md").read_text() == dedent("""\
        Text.

        ```console
        $ printf 'one\\ntwo\\nthree\\nfour 4\\nfive\\n'
        one
        ...
        three
        four ...
        five
        $ pwd
        ...
        ```

        1. A list

           ```console
           $ echo b
           b
           ```
        """)


@pytest.mark.parametrize(
    ("shown", "printed", "agree"),
    [
        ((), (), True),
        (("...",), (), True),
        (("...",), ("a", "b"), True),
        (("a", "...", "b", "..."), ("a", "b", "b", "c"), True),
        (("a ... b",), ("a 1.5 b",), True),
        (("a.c",), ("abc",), False),
        (("a", "..."), ("b", "a"), False),
        (("...", "a"), ("a", "b"), False),
    ],
)
def test_dots_stand_for_anything(shown: tuple[str, ...], printed: tuple[str, ...], agree: bool) -> None:
    pairs = aligned(shown, printed)
    assert (difference(pairs, "page.md", 1) is None) == agree
    assert rewritten(pairs) == list(shown) if agree else True


def test_a_program_of_the_server_is_a_process_of_its_own(tmp_path: Path, programs: Path) -> None:
    page = """\
        ```python title="program.py"
        import os
        import sys

        print(__name__, sys.argv, os.getcwd() == sys.path[0])
        os.environ["LEFT"] = "behind"
        sys.exit("no")
        ```

        ```console
        $ python program.py a b
        __main__ ['program.py', 'a', 'b'] True
        no
        $ echo $?
        1
        $ python -W ignore program.py 2>&1 | head -1
        __main__ ['program.py'] True
        $ python -c 'import os; print(os.environ.get("LEFT"))'
        None
        $ clora-inspect plan qwen2.5-0.5b --tp 3
        error: tp = 3 does not divide num_attention_heads = 14 ...
        $ echo $?
        2
        $ CLORA_INSPECT_TP=2 clora-inspect plan qwen2.5-0.5b -q -o plan.json && ls
        plan.json  program.py
        $ clora-inspect plan plan.json | head -1
        qwen2.5-0.5b · tp2 ...
        ```
        """
    assert faults_of(tmp_path, page, programs) == []


def test_the_copy_of_the_repository_has_its_jobs(tmp_path: Path, programs: Path) -> None:
    page = """\
        <!-- test: in repository -->
        ```console
        $ git status --short
        $ clora-inspect check llama3-8b/train
        ...
        ```
        """
    assert faults_of(tmp_path, page, programs) == []


def test_lines_of_commands_are_those_of_the_page(tmp_path: Path) -> None:
    text = "A\n\n```console\n$ a \\\n> b\nc\nd\n\n$ e\n```\n"
    first, second = read_story(page_of(tmp_path, text), "page.md").commands
    assert first == Command(4, "a \\\nb", ("c", "d"), 6, "", "")
    assert (second.line, second.text, second.shown) == (9, "e", ())
