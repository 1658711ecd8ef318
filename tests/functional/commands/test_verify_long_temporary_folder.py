"""`verify` where the path of the temporary folder is long, as it is on clusters."""

from __future__ import annotations

from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

import pytest
from command_line import own_process


@pytest.mark.parametrize(
    ("layout", "length"),
    [
        pytest.param((), 96, id="one rank"),
        # The ranks' own folder stands in the temporary one, and is 29 longer.
        pytest.param(("--tp", "2", "--procs", "2"), 73, marks=pytest.mark.nightly, id="ranks"),
        pytest.param(("--tp", "2", "--procs", "2"), 96, marks=pytest.mark.nightly, id="fork server"),
    ],
)
def test_checkpoints_are_proved_whatever_the_length_of_the_temporary_folder(
    layout: tuple[str, ...], length: int, request: pytest.FixtureRequest
) -> None:
    # pytest's own folder may be longer already.
    parent = mkdtemp()
    request.addfinalizer(lambda: rmtree(parent))
    folder = f"{parent}/".ljust(length, "t")
    Path(folder).mkdir()
    ran = own_process(
        "verify",
        "qwen2.5-0.5b",
        *layout,
        "--isolated",
        "--set",
        "model.num_layers=2",
        "--proof",
        "checkpoint",
        TMPDIR=folder,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "checkpoint  passed" in ran.stdout
    assert not list(Path(folder).iterdir())
