"""Fingerprint the adapters in a folder of any form, and compare with what is written down there."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from clora.errors import CheckpointError, FingerprintError
from clora.folders.adapter_scales import FILE as SCALES
from clora.folders.checkpoint_metadata import INDEX
from clora.folders.fingerprint import FILE, FORMAT, Naming, RecordedFingerprint, differing, of_pairs, read_record
from clora.folders.hf_folder import CONFIG, WEIGHTS
from clora_inspect.checkpoint.folder import open_checkpoint
from clora_inspect.sources.run.file import read_run
from clora_inspect.sources.run.recipe import NAME

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAMED = 3
"""Linears that a message names."""
_LATEST = "latest_checkpointed_iteration.txt"


class FoundFingerprint(msgspec.Struct, frozen=True, kw_only=True):
    """The fingerprint of the adapters in a folder."""

    sha256: str
    """64 hexadecimal digits, computed from the tensors."""
    linears: int
    dtypes: tuple[str, ...]
    form: Literal["peft", "torch_dist"]
    recorded: str | None
    """The fingerprint that is written beside the tensors; None if none is."""
    differs: tuple[str, ...] = ()
    """Names of the linears that are not what was written down; all, without limit."""
    remark: str = ""
    """A sentence on how the two compare, empty if they are equal or none was written down."""


def fingerprint_of(path: Path, alpha: float | None = None) -> FoundFingerprint:
    """Return the fingerprint of the adapters in `path`.

    Args:
        path: a PEFT folder, a distributed checkpoint, or the folder of its iterations.
        alpha: the alpha of a checkpoint that does not say it.

    Raises:
        CloraError: there are no adapters, the folder is damaged, or there is no fingerprint of
            them; the message says why.
    """
    _require_folder(path)
    if any((path / name).exists() for name in (SCALES, INDEX, _LATEST)) or any(path.glob("iter_*")):
        return _of_checkpoint(path, alpha)
    if alpha is not None:
        raise FingerprintError(f"{path} is no distributed checkpoint: its alpha is in its own config. Omit --alpha.")
    from clora.fingerprints.peft_folder import pairs_in, peft_pairs
    from clora.folders.hf_folder import read_folder

    digests, dtypes = peft_pairs(pairs_in(read_folder(path)))
    return _found(digests, dtypes, "peft", read_record(path), path / FILE)


def _require_folder(path: Path) -> None:
    """Refuse what can hold no adapters.

    Raises:
        FingerprintError: the message says what a fingerprint is taken of.
    """
    marks = (CONFIG, SCALES, INDEX, _LATEST)
    wanted = (
        "A fingerprint is taken of a folder: an adapter of Hugging Face PEFT, what clora.save_adapters wrote, or a "
        "distributed checkpoint of Megatron-Bridge or megatron-core."
    )
    if path.is_dir():
        if not any((path / name).exists() for name in marks) and not any(path.glob("iter_*")):
            if (path / WEIGHTS).exists():
                raise FingerprintError(f"{path} has {WEIGHTS} and no {CONFIG}, which has its rank and alpha.")
            raise FingerprintError(f"{path} holds no adapter: it has none of {', '.join(marks)}. {wanted}")
    elif not path.exists():
        raise FingerprintError(f"there is no {path}. {wanted}")
    elif any((path.parent / name).exists() for name in marks):
        command = f"clora-inspect fingerprint {shlex.quote(str(path.parent))}"
        raise FingerprintError(f"{path} is a file, and the adapter is its folder: {command}")
    else:
        raise FingerprintError(f"{path} is a file. {wanted}")


def _of_checkpoint(path: Path, alpha: float | None) -> FoundFingerprint:
    from clora.fingerprints.checkpoint import checkpoint_pairs
    from clora.folders.adapter_scales import read_scales

    found = open_checkpoint(path).folder
    # The user's own path, with the iteration if that was looked up.
    folder = path if path.resolve() == found else path / found.name
    run = _run_of(folder)
    said = read_scales(folder) is not None
    if alpha is not None and said:
        raise FingerprintError(f"{folder / SCALES} has the alpha of each adapter. Omit --alpha.")
    pairs = checkpoint_pairs(
        folder, alpha=alpha if alpha is not None or said else _alpha(run), naming=_naming(run) if run else None
    )
    recorded = pairs.saved.fingerprint if pairs.saved else None
    return _found(pairs.digests, pairs.dtypes, "torch_dist", recorded, folder / SCALES)


def _found(
    digests: Mapping[str, str],
    dtypes: set[str],
    form: Literal["peft", "torch_dist"],
    recorded: RecordedFingerprint | None,
    file: Path,
) -> FoundFingerprint:
    found = of_pairs(digests, dtypes)
    differs = tuple(differing(recorded, digests)) if recorded else ()
    remark = ""
    if recorded and recorded.format != FORMAT:
        remark = (
            f"{file} has a fingerprint of format {recorded.format}, and this version computes format {FORMAT}: they "
            "are not compared."
        )
    elif differs:
        named = ", ".join(differs[:_NAMED]) + (f" and {len(differs) - _NAMED} more" if len(differs) > _NAMED else "")
        remark = (
            f"error: {file} has another fingerprint: {named} {'is' if len(differs) == 1 else 'are'} not what was "
            "saved. Take another copy of the folder; if it was changed on purpose, save it anew."
        )
    return FoundFingerprint(
        sha256=found.sha256,
        linears=found.linears,
        dtypes=found.dtypes,
        form=form,
        recorded=recorded.sha256 if recorded else None,
        differs=differs,
        remark=remark,
    )


def _run_of(folder: Path) -> dict[str, Any] | None:
    """Return the configuration of the run that wrote the checkpoint, if it is there."""
    for place in (folder, folder.parent):
        if (place / NAME).is_file():
            return read_run(place / NAME)
    return None


def _section(run: Mapping[str, Any] | None, name: str) -> Mapping[str, Any]:
    found = run.get(name) if run else None
    return found if isinstance(found, dict) else {}


def _alpha(run: Mapping[str, Any] | None) -> float | None:
    alpha = _section(run, "peft").get("alpha")
    return float(alpha) if isinstance(alpha, int | float) and alpha > 0 else None


def _naming(run: Mapping[str, Any]) -> Naming | None:
    """Return the facts of the model of a run; None if its section of the model lacks them."""
    model = _section(run, "model")
    gated = model.get("gated_linear_unit")
    if not isinstance(gated, bool):
        return None
    if not model.get("attention_output_gate"):
        return Naming(gated=gated)
    heads, channels = model.get("num_attention_heads"), model.get("kv_channels")
    groups = model.get("num_query_groups") or heads
    if not (isinstance(heads, int) and isinstance(channels, int) and isinstance(groups, int) and groups > 0):
        raise CheckpointError(f"The {NAME} of the run has an output gate, and not the number and size of its heads.")
    return Naming(gated=gated, output_gate=(groups, heads // groups, channels))
