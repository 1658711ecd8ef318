"""What is released: the files of the repository, of the sdist and of the wheel; the version, the
licences of what is installed with it, and an installation in a clean environment.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile

import licences
import pytest
import yaml
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parents[3]

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())

TOP = {
    *(".ci", ".github", ".gitignore", ".pre-commit-config.yaml", ".pre-commit-hooks.yaml"),
    *("CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "action.yml"),
    *("benchmarks", "clora", "clora_inspect", "constraints.txt", "docs", "examples", "mkdocs.yml", "pyproject.toml"),
    *("schemas", "snapshots", "tests"),
}
"""What stands at the top of the repository. The output of a run was once committed there."""

NOT_PUBLISHED = {".ci", ".github", ".pre-commit-config.yaml"}

LIGHT = ("click", "einops", "jinja2", "msgspec", "networkx", "psutil", "rich", "textual", "tomlkit")
"""All dependencies but torch and megatron-core, which brings torch."""


def tracked() -> set[str]:
    """Return the files of the repository; skip the test outside of one, as in an unpacked sdist."""
    if not (ROOT / ".git").exists():
        pytest.skip("no git repository")
    ran = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(filter(None, ran.stdout.split("\0")))


def test_the_repository_holds_no_foreign_files() -> None:
    assert {path.partition("/")[0] for path in tracked()} == TOP
    listed = {*PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["only-include"]}
    # hatchling adds these itself.
    assert listed == TOP - NOT_PUBLISHED - {".gitignore", "LICENSE", "pyproject.toml"}


def test_the_version_stands_in_one_place() -> None:
    here = PROJECT["project"]["version"]
    assert version("clora-inspect") == here, "pip install -e . again"
    pattern = re.compile(rf"(?:version|__version__)\W{{0,4}}{re.escape(here)}\b", re.IGNORECASE)
    sources = {path for path in tracked() if path.endswith((".py", ".toml", ".cff", ".yml", ".yaml", ".cfg"))}
    found = {path for path in sources if pattern.search((ROOT / path).read_text(encoding="utf-8"))}
    assert found == {"pyproject.toml"}


def test_both_packages_are_typed() -> None:
    assert {f"{name}/py.typed" for name in ("clora", "clora_inspect")} <= tracked()


def test_every_dependency_has_its_licence_on_the_page() -> None:
    rows = dict(
        re.findall(r"^\| \[([^]]+)\]\([^)]*\) \| (.*) \|$", (ROOT / "docs/licences.md").read_text(), re.MULTILINE)
    )
    declared = {canonicalize_name(each.name) for lines in licences.declared().values() for each in lines}
    assert declared <= rows.keys()
    # Packages that were added to `dev` after this environment was made are missing from it.
    installed = [each for lines in licences.declared().values() for each in lines if _is_installed(each.name)]
    found = licences.closure(installed)
    assert found.keys() >= {"torch", "click", "numpy", "markupsafe"}
    assert found.items() <= rows.items(), "python tests/functional/install/licences.py > docs/licences.md"
    assert all(re.match(r"[A-Z0-9]", licence) for licence in rows.values())


def _is_installed(name: str) -> bool:
    try:
        return bool(version(name)) or True
    except licences.PackageNotFoundError:
        return canonicalize_name(name) in licences.NOT_INSTALLED_HERE


def test_the_citation_has_what_the_format_asks_for() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["license"] == PROJECT["project"]["license"]
    assert citation["repository-code"] == PROJECT["project"]["urls"]["Source"]


def test_issues_ask_for_the_versions() -> None:
    folder = ROOT / ".github" / "ISSUE_TEMPLATE"
    forms = {path.name: yaml.safe_load(path.read_text()) for path in folder.glob("*.yml") if path.name != "config.yml"}
    assert forms.keys() == {"bug.yml", "wish.yml"}
    for form in forms.values():
        assert {"name", "description", "body"} <= form.keys()
        fields = {each["id"]: each for each in form["body"]}
        assert fields["info"]["attributes"]["label"] == "clora-inspect info"
        assert fields["info"]["attributes"]["render"] == "text"
    bug = {each["id"]: each for each in forms["bug.yml"]["body"]}
    assert bug["info"]["validations"]["required"] is True


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Build both by `python -m hatchling build`, in a clean environment."""
    folder = tmp_path_factory.mktemp("dist")
    python = _environment(folder / "builder")
    _run(python, "-m", "pip", "install", "--quiet", "hatchling<2", *PROJECT["build-system"]["requires"])
    _run(python, "-m", "hatchling", "build", "-d", str(folder), cwd=ROOT)
    return {"wheel": next(folder.glob("*.whl")), "sdist": next(folder.glob("*.tar.gz"))}


@pytest.mark.nightly
def test_the_archives_hold_our_files_and_no_others(built: Mapping[str, Path]) -> None:
    ours = tracked()
    with tarfile.open(built["sdist"]) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert held - ours == {"PKG-INFO"}
    assert ours - held == {path for path in ours if path.partition("/")[0] in NOT_PUBLISHED}
    with ZipFile(built["wheel"]) as wheel:
        names = set(wheel.namelist())
    info = f"clora_inspect-{PROJECT['project']['version']}.dist-info"
    metadata = {f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")}
    packages = {path for path in ours if path.startswith(("clora/", "clora_inspect/"))}
    assert names == metadata | packages
    assert {"clora/py.typed", "clora_inspect/py.typed"} <= names


@pytest.mark.nightly
def test_links_of_the_readme_lead_to_the_repository_where_it_has_no_files_beside_it(built: Mapping[str, Path]) -> None:
    with ZipFile(built["wheel"]) as wheel:
        metadata = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        readme = wheel.read(metadata).decode()
    links = re.findall(r"(!?)\[[^]]*\]\(([^#)][^)]*)\)", readme)
    assert len(links) > 20
    repository = PROJECT["project"]["urls"]["Source"]
    raw = repository.replace("//github.com", "//raw.githubusercontent.com") + "/main/"
    files = {link.removeprefix(raw if picture else f"{repository}/blob/main/") for picture, link in links}
    foreign = {path for path in files if path.startswith("https:")}
    assert foreign == {"https://github.com/NVIDIA/Megatron-LM"}
    assert {path for path in files - foreign if not (ROOT / path).exists()} == set()


@pytest.mark.nightly
def test_the_wheel_of_the_sdist_is_the_same(built: Mapping[str, Path], tmp_path: Path) -> None:
    python = _environment(tmp_path / "environment")
    _run(python, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path), str(built["sdist"]))
    with ZipFile(next(tmp_path.glob("*.whl"))) as one, ZipFile(built["wheel"]) as other:
        assert sorted(one.namelist()) == sorted(other.namelist())


@pytest.mark.nightly
def test_it_installs_where_torch_is_there_without_a_constraints_file(built: Mapping[str, Path], tmp_path: Path) -> None:
    """These tests have torch: a clean environment sees their packages, and gets the wheel."""
    python = _environment(tmp_path / "environment")
    # Up to Python 3.11 an environment begins with a setuptools that is too old for torch.
    _run(python, "-m", "pip", "uninstall", "--yes", "setuptools")
    _see_packages_of_these_tests(tmp_path / "environment")
    # The packages of these tests may have an editable clora-inspect.
    installed = _run(python, "-m", "pip", "install", "--ignore-installed", "--no-deps", str(built["wheel"]))
    assert "Successfully installed clora-inspect" in installed
    # With its dependencies: all are there, and nothing is fetched.
    again = _run(python, "-m", "pip", "install", "--no-index", str(built["wheel"]))
    assert re.search(r"Requirement already satisfied: torch>=", again)
    assert "Collecting" not in again
    command = str(python.parent / "clora-inspect")
    assert "trainable params:" in _run(command, "plan", "qwen2.5-0.5b", "--tp", "2", cwd=tmp_path)
    where = _run(
        python, "-c", "import clora, clora_inspect; print(clora.__file__, clora_inspect.__file__)", cwd=tmp_path
    )
    assert all(path.startswith(str(tmp_path)) for path in where.split())


@pytest.mark.nightly
def test_without_torch_what_is_saved_can_be_looked_at(
    built: Mapping[str, Path], saved_plan: Path, tmp_path: Path
) -> None:
    python = _environment(tmp_path / "environment")
    lines = [line for line in PROJECT["project"]["dependencies"] if re.match(r"[\w-]+", line)[0] in LIGHT]  # type: ignore[index]
    assert len(lines) == len(LIGHT)
    _run(python, "-m", "pip", "install", "--quiet", *lines)
    _run(python, "-m", "pip", "install", "--quiet", "--no-deps", str(built["wheel"]))
    command = str(python.parent / "clora-inspect")
    assert "trainable params:" in _run(command, "plan", str(saved_plan), cwd=tmp_path)
    for words in (
        ("--version",),
        ("explain", "CL101"),
        ("config", "init"),
        ("info",),
        ("diff", str(saved_plan), str(saved_plan)),
        ("graph", str(saved_plan), "-f", "svg", "-o", "graph.svg"),
        ("tui", str(saved_plan), "--screenshot", "screen.svg"),
    ):
        _run(command, *words, cwd=tmp_path)
    for words in (("plan",), ("check", "--no-progress"), ("verify",), ("graph",)):
        ran = subprocess.run(
            [command, words[0], "qwen2.5-0.5b", *words[1:], "--isolated"],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env=_clean(),
            timeout=120,
        )
        assert (ran.returncode, ran.stdout) == (3, "")
        assert ran.stderr == "error: torch is not installed, and this needs it: pip install torch\n"


def _environment(folder: Path) -> Path:
    """Make a clean virtual environment and return its interpreter."""
    venv.create(folder, with_pip=True)
    return folder / "bin" / "python"


def _see_packages_of_these_tests(environment: Path) -> None:
    site = next((environment / "lib").glob("python*")) / "site-packages"
    # A path in a .pth file comes after the environment's own packages.
    folders = [path for path in sys.path if path.endswith("site-packages")]
    (site / "packages_of_these_tests.pth").write_text("\n".join(folders) + "\n")


def _run(program: str | Path, *words: str, cwd: Path | None = None) -> str:
    ran = subprocess.run(
        [str(program), *words], capture_output=True, text=True, check=False, cwd=cwd, env=_clean(), timeout=600
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def _clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
