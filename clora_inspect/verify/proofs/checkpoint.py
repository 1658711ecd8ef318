"""Prove that adapters survive a checkpoint and a change of layout: the files hold the whole
matrices, row by row, whichever ranks wrote them.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from clora.errors import CheckpointError
from clora_inspect.machine.quiet import quiet
from clora_inspect.verify.model.packing import DELTA_NET_SECTIONS, MAMBA_SECTIONS
from clora_inspect.verify.model.running import ForwardFailed, outputs_of
from clora_inspect.verify.model.single_rank import single_rank
from clora_inspect.verify.outcome import Proved, Refuted
from clora_inspect.verify.proofs.adapter_values import shared_folder, spoil, whole_factors
from clora_inspect.verify.proofs.compare import departure

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from clora_inspect.verify.model.model_under_test import AdaptedModel, ModelUnderTest


def prove(model: ModelUnderTest) -> Proved:
    """Compare what was saved with the files, and with what is loaded here and on one rank."""
    adapted = model.adapted()
    whole = whole_factors(model, adapted)
    layout = model.layout.label
    with shared_folder(model) as folder:
        path = folder / "adapters"
        with quiet():
            model.together(lambda: model.implementation.save(adapted.chunks, path))
        # A load can undo what the save did wrong, so the files are read as well.
        _compare_files(whole, path)
        loaded = _loaded(model, path)
        _compare(whole, whole_factors(model, loaded), f"saved and loaded on {layout}")
        runs = _compare_function(model, adapted, loaded)
        # Another implementation need not write the scale down; its trainers compare their configs.
        if model.implementation.is_ours:
            _refuse_another_alpha(model, path)
        if model.ranks > 1:
            with single_rank():
                alone = model.on_single_rank()
                found = whole_factors(alone, _loaded(alone, path))
                _compare(whole, found, f"saved on {layout} and loaded on one rank")
    return Proved(
        detail="saved and loaded, the whole matrices"
        + (" and the outputs" if runs else "")
        + " are the same bits"
        + (
            f", also when {layout} is loaded on one rank"
            if model.ranks > 1
            else "; the files hold them in their own order"
        ),
        tensors=len(whole),
        elements=sum(matrix.numel() for matrix in whole.values()),
        largest_error=0.0,
    )


def _loaded(model: ModelUnderTest, path: Path) -> AdaptedModel:
    """Load the adapters into a new model."""
    adapted = model.adapted()
    # It has the same drawn values as the saved model: a load that does nothing would look right.
    spoil(adapted)
    with quiet():
        model.together(lambda: model.implementation.load(adapted.chunks, path))
    return adapted


def _compare_function(model: ModelUnderTest, saved: AdaptedModel, loaded: AdaptedModel) -> bool:
    """Compare the outputs, which also rest on what is no factor, such as the scale.

    Returns:
        Whether the model runs. If it does not, the proofs that run it say so.
    """
    try:
        first, second = (
            model.together(partial(outputs_of, adapted.chunks, model.batch())) for adapted in (saved, loaded)
        )
    except ForwardFailed:
        return False
    difference = departure(second, first)
    if any(model.everywhere(difference is not None)):
        raise Refuted(
            "Saved and loaded, the factors are the same bits and the outputs are not "
            f"({difference or 'on another rank'}): something else that the function rests on is lost, such as the "
            "scale alpha / dim.",
        )
    return True


def _refuse_another_alpha(model: ModelUnderTest, path: Path) -> None:
    """Load what was saved into a model whose scale alpha / dim is another: it must be refused."""
    other = replace(model, lora=replace(model.lora, alpha=2 * model.lora.alpha)).adapted()
    try:
        with quiet():
            model.together(lambda: model.implementation.load(other.chunks, path))
    except CheckpointError:
        return
    raise Refuted(
        f"Saved with alpha {model.lora.alpha:g}, the adapters are loaded by a model with alpha "
        f"{2 * model.lora.alpha:g} without a word: what was trained is then scaled by 2."
    )


def _compare(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor], how: str) -> None:
    for name, matrix in expected.items():
        other = found.get(name)
        if other is None:
            raise Refuted(f"{how.capitalize()}: this factor is nowhere.", where=name[:-2])
        if not torch.equal(matrix, other):
            raise Refuted(
                f"{how.capitalize()}, {name[-1].upper()} is another matrix{_how_different(matrix, other)}.",
                where=name[:-2],
            )


def _how_different(expected: torch.Tensor, found: torch.Tensor) -> str:
    """Return an addition to the message: rows in another order, or how far the values are apart."""
    reordered = _reordered(expected, found)
    return reordered or f": {departure([found], [expected])}"


def _reordered(expected: torch.Tensor, found: torch.Tensor) -> str:
    """Return an addition to the message if the rows are the same in another order; else ""."""
    if expected.shape != found.shape or expected.dim() != 2:
        return ""
    numbers = {tuple(row.tolist()): number for number, row in enumerate(expected)}
    order = [numbers.get(tuple(row.tolist())) for row in found]
    if None in order or sorted(order) != list(range(len(numbers))):  # type: ignore[type-var]
        return ""
    first = next(number for number, row in enumerate(order) if row != number)
    return f": the same rows in another order (row {first} is row {order[first]})"


def _compare_files(whole: dict[str, torch.Tensor], path: Path) -> None:
    """Look for each matrix in the files, read as plain tensors. Layers (and experts) may be stacked
    in front of a matrix; its rows must be as they are.
    """
    from megatron.core import dist_checkpointing

    with quiet():
        stored = dist_checkpointing.load_plain_tensors(str(path))
    matrices = [matrix for tensor in (*_tensors(stored), *_joined(stored)) for matrix in _matrices(tensor)]
    known = {_bytes_of(matrix) for matrix in matrices}
    for name, matrix in whole.items():
        if any(_bytes_of(each) not in known for each in _matrices(matrix)):
            raise Refuted(
                f"The files do not hold {name[-1].upper()} as it is: rows are in another order, or cut. Another "
                "layout, or another implementation, would load something else.",
                where=name[:-2],
            )


def _tensors(stored: object) -> Iterable[torch.Tensor]:
    if isinstance(stored, torch.Tensor):
        yield stored
    elif isinstance(stored, dict):
        for value in stored.values():
            yield from _tensors(value)


def _joined(stored: Mapping[str, object]) -> Iterable[torch.Tensor]:
    """Yield the matrices whose sections are tensors of their own, put together."""
    for order in (MAMBA_SECTIONS, DELTA_NET_SECTIONS):
        first = f".{order[0]}"
        for stem in (key.removesuffix(first) for key in stored if key.endswith(first)):
            sections = [stored.get(f"{stem}.{name}") for name in order]
            tensors = [section for section in sections if isinstance(section, torch.Tensor)]
            if len(tensors) == len(order):
                yield torch.cat(tensors, -2)


def _matrices(tensor: torch.Tensor) -> Iterable[torch.Tensor]:
    return tensor.reshape(-1, *tensor.shape[-2:]) if tensor.dim() > 2 else [tensor]


def _bytes_of(matrix: torch.Tensor) -> tuple[tuple[int, ...], bytes]:
    return tuple(matrix.shape), matrix.detach().to(torch.float64).contiguous().numpy().tobytes()
