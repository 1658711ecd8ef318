"""The page of the licences of what is installed with clora-inspect, from the packages' metadata.

python tests/functional/install/licences.py > docs/licences.md
"""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import PackageMetadata, PackageNotFoundError, metadata, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]

NOT_INSTALLED_HERE = {"transformer-engine": "Apache-2.0"}
"""Package -> its licence. It needs CUDA to be installed."""

ONLY_A_FILE = {"axe-playwright-python": "MIT AND MPL-2.0"}
"""Package -> its licence, where the metadata only names a file: its own, and that of axe-core."""

OF_CUDA = ("nvidia-", "cuda-", "triton", "transformer-engine-")
"""Beginnings of the names of packages that only a CUDA build of torch, or a GPU, brings."""

SPELLINGS = {
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "BSD 2-Clause License": "BSD-2-Clause",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
"""What older metadata says -> the identifier of SPDX."""

HEAD = """\
# Licences of dependencies

clora-inspect itself is under the [Apache License 2.0](../LICENSE). It contains no code of these
packages: pip installs them beside it. (`docs/site/vendor/` has a copy of Mermaid, MIT, for the
diagrams of the documentation's site; it is in no wheel.) The page is made from their metadata by
`python tests/functional/install/licences.py > docs/licences.md`, and a test holds it against what
is installed.
"""
OF_DEVELOPERS = ("docs", "dev")
"""The extras that no user needs."""

CUDA = """\
A CUDA build of torch brings packages of NVIDIA (`nvidia-*`, `cuda-*`) under NVIDIA's own terms, and
Triton under the MIT licence. The extra `te` builds or brings more of them.
"""


def declared() -> dict[str, list[Requirement]]:
    """Return the requirements of `pyproject.toml`: those of the package under "", and extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = {"": project["dependencies"], **project["optional-dependencies"]}
    groups = {name: [Requirement(line) for line in group] for name, group in lines.items()}
    # An extra that brings others names the package itself.
    others = {
        name: [each for one in group if one.name == project["name"] for each in one.extras]
        for name, group in groups.items()
    }
    return {
        name: [one for one in group if one.name != project["name"]]
        + [each for other in others[name] for each in groups[other]]
        for name, group in groups.items()
    }


def closure(requirements: list[Requirement]) -> dict[str, str]:
    """Return package -> licence, of `requirements` and of all that they bring on this machine.

    Raises:
        PackageNotFoundError: one of `requirements` itself is not installed.
    """
    found: dict[str, str] = {}
    pending = [(each, True) for each in requirements]
    seen: set[tuple[str, frozenset[str]]] = set()
    while pending:
        requirement, is_direct = pending.pop()
        name = canonicalize_name(requirement.name)
        # An extra of a package brings more than the package alone.
        key = name, frozenset(requirement.extras)
        if key in seen or (name.startswith(OF_CUDA) and name not in NOT_INSTALLED_HERE):
            continue
        seen.add(key)
        if name in NOT_INSTALLED_HERE:
            found[name] = NOT_INSTALLED_HERE[name]
            continue
        try:
            found[name] = licence_of(metadata(name)) or ONLY_A_FILE.get(name, "")
        except PackageNotFoundError:
            if is_direct:
                raise
            continue
        for line in requires(name) or ():
            below = Requirement(line)
            extras = ["", *requirement.extras]
            if below.marker is None or any(below.marker.evaluate({"extra": extra}) for extra in extras):
                pending.append((below, False))
    return dict(sorted(found.items()))


def licence_of(package: PackageMetadata) -> str:
    """Return the licence; an empty string where the metadata has none."""
    fields = {name.lower(): value for name, value in package.items()}
    classifiers = [line.rpartition(" :: ")[2] for line in package.get_all("Classifier") or () if "License" in line]
    # Some packages put the whole text into the field.
    short = fields.get("license", "").strip().partition("\n")[0]
    # Old tools wrote UNKNOWN where nothing was given.
    says = 0 < len(short) < 80 and short != "UNKNOWN"
    licence = fields.get("license-expression") or (short if says else ", ".join(classifiers))
    return SPELLINGS.get(licence, licence)


def page() -> str:
    """Return the page."""
    groups = declared()
    used = [each for extra, lines in groups.items() if extra not in OF_DEVELOPERS for each in lines]
    runtime = closure(used)
    theirs = [each for extra in OF_DEVELOPERS for each in groups[extra]]
    developers = {name: licence for name, licence in closure(theirs).items() if name not in runtime}
    parts = [HEAD, _table(runtime), "## Without a GPU and with one\n", CUDA, "## For developers\n"]
    return "\n".join([*parts, f"The extras `dev` and `docs`, which no user needs:\n\n{_table(developers)}"])


def _table(licences: dict[str, str]) -> str:
    rows = [f"| [{name}](https://pypi.org/project/{name}/) | {licence} |" for name, licence in licences.items()]
    return "\n".join(["| package | licence |", "|---|---|", *rows, ""])


if __name__ == "__main__":
    sys.stdout.write(page())
