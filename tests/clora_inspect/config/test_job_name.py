"""The meanings of the word JOB, as a table. The command line and the interface share them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from clora.errors import CloraError
from clora_inspect.config.job_name import SavedFile, known_names, meaning_of
from clora_inspect.config.load import Configuration, load
from clora_inspect.sources.definition import load_definition
from clora_inspect.tui.job.opening import choices, opening_of

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = """\
[jobs.small]
model = "qwen2.5-0.5b"
layouts = { one = { tp = 2 }, two = { pp = 2 } }

[jobs.alone]
model = "models.py:build"

# The name of a built-in architecture, and the names of files below.
[jobs.llama3-8b]
model = "qwen2.5-0.5b"

[jobs."config.json"]
model = "qwen2.5-0.5b"

[jobs."plan.json"]
model = "qwen2.5-0.5b"
"""

LLAMA = {"schema": "of somebody else", "model_type": "llama", "hidden_size": 64}
PLAN = {"schema": 1, "rank_classes": []}
SNAPSHOT = {"schema": 1, "layout": {}, "totals": {}, "placements": []}

FILES = {
    "clora-inspect.toml": CONFIG,
    "plan.json": json.dumps(PLAN),
    "from_a_newer_release.json": json.dumps({**PLAN, "schema": 9, "more": 1}),
    "train.json": json.dumps(SNAPSHOT),
    "train.json.new": json.dumps(SNAPSHOT),
    "damaged.json": '{"schema": 1}',
    "plan.txt": json.dumps(PLAN),
    "config.json": json.dumps(LLAMA),
    "llama.json": json.dumps(LLAMA),
    "list.json": "[1]",
    "broken.json": "{",
    "binary.json": "\0\1",
    "notes.txt": "not a model",
    "models.py": "",
    "llama/config.json": json.dumps(LLAMA),
    "small/one/config.json": json.dumps(LLAMA),
    "empty/readme": "",
    "folder.json/readme": "",
}


@pytest.fixture
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configuration:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return load(tmp_path, environ={})


def in_words(name: str, configuration: Configuration | None, layout: str | None = None) -> str:
    """Return what `name` means, or the error message."""
    try:
        meaning = meaning_of(name, configuration, layout)
    except CloraError as error:
        return f"error: {error}"
    if isinstance(meaning, SavedFile):
        return f"{meaning.holds} {meaning.path}"
    if meaning.layouts:
        return "job " + " ".join(job.argument for job in meaning.meant)
    (job,) = meaning.meant
    return f"model {job.job.model}"


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        # saved files, by what is in them; they go before a job of their name
        ("plan.json", "saved plan plan.json"),
        ("./plan.json", "saved plan plan.json"),
        ("from_a_newer_release.json", "saved plan from_a_newer_release.json"),
        ("damaged.json", "saved plan damaged.json"),
        ("train.json", "snapshot train.json"),
        ("train.json.new", "snapshot train.json.new"),
        ("plan.txt", "error: plan.txt is not a model"),
        # configured jobs, which go before architectures, models in files, and folders
        ("small", "job small/one small/two"),
        ("small/two", "job small/two"),
        ("small/one", "job small/one"),
        ("alone", "job alone/default"),
        ("alone/default", "job alone/default"),
        ("llama3-8b", "job llama3-8b/default"),
        ("config.json", "job config.json/default"),
        ("small/thre", "error: no layout 'thre' is configured. Configured: one, two."),
        ("small/", "error: no layout '' is configured"),
        # models that are not configured
        ("llama3-70b", "model llama3-70b"),
        ("llama.json", "model llama.json"),
        ("./config.json", "model ./config.json"),
        ("llama", "model llama"),
        ("llama/", "model llama/"),
        ("llama/config.json", "model llama/config.json"),
        ("package.module:function", "model package.module:function"),
        ("models.py:build", "model models.py:build"),
        ("nofile.py:build", "model nofile.py:build"),
        # that these are no models is found when they are read
        ("list.json", "model list.json"),
        ("broken.json", "model broken.json"),
        ("binary.json", "model binary.json"),
        # nothing
        ("smal", "error: 'smal' is no configured job, no built-in architecture and no file. Did you mean small?"),
        (
            "smal/two",
            "error: 'smal/two' is no configured job, no built-in architecture and no file. Did you mean small/",
        ),
        (
            "llama3-7b",
            "error: 'llama3-7b' is no configured job, no built-in architecture and no file. Did you mean llama3",
        ),
        (
            "qwen2.5-0.5c",
            "error: 'qwen2.5-0.5c' is no configured job, no built-in architecture and no file. Did you mean",
        ),
        ("missing.json", "error: missing.json: no such file."),
        ("missing/plan.json", "error: missing/plan.json: no such file."),
        ("missing.py", "error: missing.py: no such file."),
        ("models.py", "error: models.py is not a model. Give a config.json, or FILE.py:FUNCTION"),
        ("notes.txt", "error: notes.txt is not a model"),
        ("empty", "error: empty is a folder without a config.json."),
        ("folder.json", "error: folder.json is a folder without a config.json."),
        ("x" * 5000, "error: 'xxxxx"),
    ],
)
def test_the_meaning_of_a_name(configuration: Configuration, name: str, meaning: str) -> None:
    assert in_words(name, configuration).startswith(meaning)


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("plan.json", "saved plan plan.json"),
        ("llama3-8b", "model llama3-8b"),
        ("small/one", "model small/one"),
        ("config.json", "model config.json"),
        ("lama3-8b", "error: 'lama3-8b' is no built-in architecture. Did you mean llama3-8b"),
        ("alone/default", "error: alone/default: no such folder."),
    ],
)
@pytest.mark.usefixtures("configuration")
def test_the_meaning_of_a_name_where_nothing_is_configured(tmp_path: Path, name: str, meaning: str) -> None:
    assert in_words(name, None).startswith(meaning)
    assert in_words(name, load(tmp_path, isolated=True)).startswith(meaning)


@pytest.mark.parametrize(
    ("name", "layout", "meaning"),
    [
        ("small", "two", "job small/two"),
        ("small", "tow", "error: no layout 'tow' is configured. Did you mean two?"),
        # the layout that is part of the name goes first
        ("small/one", "two", "job small/one"),
        ("llama3-70b", "train", "model llama3-70b"),
        ("plan.json", "train", "saved plan plan.json"),
    ],
)
def test_a_layout_that_is_named_beside_the_job(
    configuration: Configuration, name: str, layout: str, meaning: str
) -> None:
    assert in_words(name, configuration, layout).startswith(meaning)


def test_a_model_that_is_not_configured_takes_the_name_of_its_layout(configuration: Configuration) -> None:
    meaning = meaning_of("llama3-70b", configuration, "train")
    assert not isinstance(meaning, SavedFile)
    assert meaning.meant[0].label == "llama3-70b train"


def test_a_file_that_cannot_be_read_is_told(configuration: Configuration, tmp_path: Path) -> None:
    (tmp_path / "plan.json").chmod(0)
    try:
        (tmp_path / "plan.json").read_bytes()
    except PermissionError:
        assert in_words("plan.json", configuration).startswith("error: plan.json cannot be read: Permission denied.")


def test_what_means_a_model_is_what_a_model_is_loaded_from(configuration: Configuration) -> None:
    for name in ("missing.json", "missing/plan.json", "models.py", "empty"):
        with pytest.raises(CloraError) as loading:
            load_definition(name)
        assert in_words(name, configuration) == f"error: {loading.value}"


def test_the_names_that_are_listed_mean_what_the_list_says(configuration: Configuration) -> None:
    listed = {choice.name: choice.words for choice in choices(configuration)}
    assert list(listed) == known_names(configuration)
    assert listed["small"] == "configured, 2 layouts"
    assert listed["llama3-8b"] == "configured, 1 layout"
    assert listed["llama3-70b"] == "built-in architecture"
    for name, words in listed.items():
        assert in_words(name, configuration).startswith(("saved plan", "job") if "configured" in words else "model")
    assert set(known_names(None)) < set(listed)


@pytest.mark.parametrize("name", ["plan.json", "train.json.new", "small", "small/two", "llama3-70b"])
def test_the_interface_opens_what_the_name_means(configuration: Configuration, name: str) -> None:
    opening, meaning = opening_of(name, configuration), meaning_of(name, configuration)
    assert opening.configuration is configuration
    if isinstance(meaning, SavedFile):
        assert (opening.path, opening.job) == (meaning.path, None)
    else:
        assert (opening.path, opening.job, opening.siblings) == (None, meaning.meant[0], meaning.layouts)
