"""The cache of plans: the parts of a plan's key, and damaged or stale entries."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from clora.canonical_lora import CanonicalLoRA
from clora_inspect.check import cache as cache_module
from clora_inspect.check.assessment import assessing_source
from clora_inspect.check.cache import MOST_ENTRIES, NO_INFLUENCE, Cache, planning_source
from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.job.plan import Totals
from clora_inspect.job.workload import Workload
from clora_inspect.machine.user_key import user_key

VALUE = Totals(base_params=1, trainable_params=2, placements=3, wrapped_modules=4, linears=5, adapted_linears=6)
JOB = Job(model="qwen2.5-0.5b", lora=CanonicalLoRA(dim=8), layout=Layout(tp=2))


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def test_what_was_kept_comes_back_and_nothing_else(cache: Cache) -> None:
    assert cache.get("a" * 64, Totals) is None
    cache.put("a" * 64, VALUE)
    assert cache.get("a" * 64, Totals) == VALUE
    assert cache.get("b" * 64, Totals) is None
    assert cache.get(None, Totals) is None
    assert (cache.folder / ".gitignore").read_text() == "*\n"


@pytest.mark.parametrize(
    "spoilt",
    [
        b"",
        b"{",
        b"\x80\x04pickle",
        b"[" * 100_000,
        b'{"format":1,"key":"a","value":{}}',
        b'{"format":99,"key":"KEY","value":VALUE}',
    ],
)
def test_a_spoilt_or_foreign_entry_counts_as_none_and_is_written_anew(cache: Cache, spoilt: bytes) -> None:
    key = "c" * 64
    cache.put(key, VALUE)
    path = cache.folder / f"{key}.json"
    path.write_bytes(
        spoilt.replace(b"KEY", key.encode()).replace(b"VALUE", path.read_bytes().split(b'"value":')[1][:-1])
    )
    assert cache.get(key, Totals) is None
    cache.put(key, VALUE)
    assert cache.get(key, Totals) == VALUE


def test_an_entry_under_another_name_is_not_believed(cache: Cache) -> None:
    cache.put("d" * 64, VALUE)
    (cache.folder / f"{'d' * 64}.json").rename(cache.folder / f"{'e' * 64}.json")
    assert cache.get("e" * 64, Totals) is None


@pytest.mark.parametrize(
    "other",
    [
        replace(JOB, lora=CanonicalLoRA(dim=16)),
        replace(JOB, lora=CanonicalLoRA(dim=8, dropout=0.1)),
        replace(JOB, lora=CanonicalLoRA(dim=8, target_modules=["linear_q"])),
        replace(JOB, layout=Layout(tp=2, sp=False)),
        replace(JOB, layout=Layout(tp=2, pp=2)),
        replace(JOB, model="qwen3-0.6b"),
        replace(JOB, model_overrides={"num_layers": 2}),
        replace(JOB, targets_written=True),
    ],
    ids=["dim", "dropout", "targets", "sp", "pp", "model", "override", "written"],
)
def test_everything_that_changes_a_plan_changes_its_key(cache: Cache, other: Job) -> None:
    assert cache.plan_key(JOB) == cache.plan_key(replace(JOB))
    assert cache.plan_key(other) != cache.plan_key(JOB)


def test_what_is_counted_with_a_plan_is_part_of_its_key(cache: Cache) -> None:
    workloads = (None, Workload(), Workload(seq_length=8192), Workload(num_microbatches=3))
    assert len({cache.plan_key(JOB, workload) for workload in workloads}) == len(workloads)


def test_versions_and_code_are_part_of_the_key(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    before = cache.plan_key(JOB)
    monkeypatch.setattr(cache_module, "_versions", lambda: {"torch": "99"})
    after = cache.plan_key(JOB)
    assert after != before
    monkeypatch.setattr(cache_module, "_planning_code", lambda: "other code")
    assert cache.plan_key(JOB) not in (before, after)


def test_a_models_file_is_part_of_the_key(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    before = {path: cache.plan_key(replace(JOB, model=str(path))) for path in (tmp_path, tmp_path / "config.json")}
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    for path, key in before.items():
        assert key is not None
        assert cache.plan_key(replace(JOB, model=str(path))) != key


def test_models_made_by_functions_are_kept_only_when_asked(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text("def build(): ...")
    job = replace(JOB, model=f"{tmp_path}/models.py:build")
    assert cache.plan_key(job) is None
    asked = Cache(cache.folder, callables=True)
    before = asked.plan_key(job)
    assert before is not None
    (tmp_path / "models.py").write_text("def build(): return 1")
    assert asked.plan_key(job) != before
    assert asked.plan_key(replace(JOB, model="package.module:build")) is None
    assert asked.plan_key(replace(JOB, device="cpu")) is None
    assert asked.plan_key(replace(JOB, model_overrides={"activation_func": print})) is None


def test_a_folder_that_cannot_be_written_to_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file" / "cache")
    cache.put("f" * 64, VALUE)
    assert cache.get("f" * 64, Totals) is None


def test_writers_of_one_entry_do_not_meet(cache: Cache) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: cache.put("a" * 64, VALUE), range(64)))
    assert cache.get("a" * 64, Totals) == VALUE
    assert {path.name for path in cache.folder.iterdir()} == {".gitignore", f"{'a' * 64}.json"}


def test_the_oldest_entries_go(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_ENTRIES > 100
    monkeypatch.setattr(cache_module, "MOST_ENTRIES", 3)
    for number in range(5):
        cache.put(f"{number}" * 64, VALUE)
    assert len(list(cache.folder.glob("*.json"))) == 3
    assert cache.get("4" * 64, Totals) == VALUE


def replaced(cache: Cache, key: str, old: bytes, new: bytes) -> None:
    path = cache.folder / f"{key}.json"
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new))


def test_an_entry_that_this_user_has_not_written_counts_as_none(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key = "a" * 64
    cache.put(key, VALUE)
    replaced(cache, key, b'"base_params":1', b'"base_params":9')
    assert cache.get(key, Totals) is None
    # The whole folder of another user, whose secret is another.
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    cache.put(key, VALUE)
    assert cache.get(key, Totals) == VALUE
    monkeypatch.undo()
    assert cache.get(key, Totals) is None


def test_machines_with_one_secret_share_their_entries(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key = "a" * 64
    for home in ("one", "two"):
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / home))
        monkeypatch.setenv("CLORA_INSPECT_CACHE_KEY", "a secret of sixteen characters")
        if home == "one":
            cache.put(key, VALUE)
        assert cache.get(key, Totals) == VALUE
    # Too short, or not there as in a pull request of a fork: the user's own secret counts.
    for secret in ("short", ""):
        monkeypatch.setenv("CLORA_INSPECT_CACHE_KEY", secret)
        assert cache.get(key, Totals) is None
    assert not (tmp_path / "one").exists()


def test_the_secret_is_private_and_made_anew_when_it_is_not(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    file = tmp_path / "clora-inspect" / "cache.key"
    cache.put("a" * 64, VALUE)
    first = file.read_bytes()
    assert (len(first), file.stat().st_mode & 0o777) == (32, 0o600)
    assert user_key() == first
    file.chmod(0o644)
    assert user_key() != first
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_bytes(b"")
    assert len(user_key() or b"") == 32
    # A link may lead to a file that somebody else knows.
    file.rename(tmp_path / "moved")
    file.symlink_to(tmp_path / "moved")
    assert user_key() != (tmp_path / "moved").read_bytes()


def test_without_a_place_for_the_secret_nothing_is_kept(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    cache.put("a" * 64, VALUE)
    assert cache.get("a" * 64, Totals) is None
    assert not cache.folder.exists()


def test_pruning_leaves_what_this_user_has_not_written(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "MOST_ENTRIES", 3)
    cache.folder.mkdir()
    foreign = [cache.folder / "package.json", *(cache.folder / f"{digit * 64}.json" for digit in "abcdef")]
    for path in foreign:
        path.write_text("{}")
        os.utime(path, (1, 1))
    for number in range(5):
        cache.put(f"{number}" * 64, VALUE)
    assert all(path.read_text() == "{}" for path in foreign)
    assert len(list(cache.folder.glob("*.json"))) < len(foreign) + 5


def test_a_link_to_a_folder_of_others_is_no_cache(cache: Cache, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "package.json").write_text("{}")
    cache.folder.symlink_to(foreign)
    cache.put("a" * 64, VALUE)
    assert [path.name for path in foreign.iterdir()] == ["package.json"]
    assert cache.get("a" * 64, Totals) is None
    # A link to a cache is one, such as one on a larger disk.
    (foreign / "package.json").unlink()
    cache.put("a" * 64, VALUE)
    assert cache.get("a" * 64, Totals) == VALUE


@pytest.mark.parametrize("special", ["pipe", "device", "link"])
def test_a_special_file_in_the_cache_is_no_entry(cache: Cache, special: str, tmp_path: Path) -> None:
    cache.put("b" * 64, VALUE)
    path = cache.folder / f"{'a' * 64}.json"
    if special == "pipe":
        os.mkfifo(path)
    else:
        (tmp_path / "target").write_text("theirs")
        path.symlink_to("/dev/zero" if special == "device" else tmp_path / "target")
    assert cache.get("a" * 64, Totals) is None
    cache.put("a" * 64, VALUE)
    assert cache.get("a" * 64, Totals) is None
    assert special != "link" or (tmp_path / "target").read_text() == "theirs"


def test_every_package_of_ours_is_known_to_influence_a_plan_or_not() -> None:
    """A new package must be entered here or in `NO_INFLUENCE`: otherwise cached plans go stale, or
    are thrown away for nothing.
    """
    influence = {"bridge", "cost", "job", "machine", "sources", "virtual"}
    package = Path(cache_module.__file__).parents[1]
    folders = {path.parent.name for path in package.glob("*/__init__.py")}
    assert folders == influence | NO_INFLUENCE
    assert not influence & NO_INFLUENCE


def test_every_module_of_ours_that_planning_imports_is_hashed() -> None:
    loaded = loaded_modules(
        "from clora_inspect.job.job import Job\n"
        "from clora_inspect.pipeline import plan_job\n"
        "plan_job(Job(model='qwen3-30b-a3b', model_overrides={'num_layers': 1}))\n"
    )
    # Rules run while a plan is made, but their findings are not stored with it. They import the
    # drift of snapshots, and the profiles of engines.
    harmless = {path for path in loaded if {"rules", "snapshot", "engines"} & set(path.parts)}
    assert loaded - harmless <= set(planning_source())


def test_every_module_of_ours_that_rules_import_is_hashed() -> None:
    loaded = loaded_modules(
        "from clora_inspect.rules import all_rules\n"
        "from clora_inspect.snapshot.record import take\n"
        "from clora_inspect import engines\n"
        "all_rules(), engines.load('vllm')\n"
    )
    assert loaded <= {*planning_source(), *assessing_source()}


def loaded_modules(program: str) -> set[Path]:
    """Return the files of our modules that are loaded after `program` ran."""
    program = (
        f"import sys\n{program}"
        "ours = [module for name, module in sys.modules.items() if name.split('.')[0] in ('clora', 'clora_inspect')]\n"
        "print('\\n'.join(module.__file__ for module in ours if module.__file__))\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return {Path(line) for line in ran.stdout.splitlines()}
