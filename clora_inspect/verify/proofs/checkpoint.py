"""Adapters survive a checkpoint, and another layout: what is in the files are the whole matrices,
row by row, whoever wrote them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from clora_inspect.machine.quiet import quiet
from clora_inspect.verify.model.single_rank import alone
from clora_inspect.verify.outcome import NotRun, Proved, Refuted
from clora_inspect.verify.proofs.adapter_values import shared_folder, whole_factors

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from clora_inspect.verify.model.model_under_test import ModelUnderTest


def prove(model: ModelUnderTest) -> Proved:
    """Save on this layout; look at the files; load on this layout, and on one rank."""
    if model.streamed:
        raise NotRun("at true width the files would be as large as the adapters")
    if not model.is_megatron:
        raise NotRun("the model has no sharded_state_dict, so megatron-core has no checkpoints of it")
    adapted = model.adapted()
    whole = whole_factors(model, adapted)
    with shared_folder(model) as folder:
        path = folder / "adapters"
        with quiet():
            model.together(lambda: model.implementation.save(adapted.chunks, path))
        _compare_files(whole, path)
        _compare(whole, _loaded(model, path), f"saved and loaded on {model.layout.label}")
        if model.ranks > 1:
            with alone():
                _compare(whole, _loaded(model.alone(), path), f"saved on {model.layout.label} and loaded on one rank")
    return Proved(
        detail="saved and loaded, the whole matrices are the same bits"
        + (
            f", also when {model.layout.label} is loaded on one rank"
            if model.ranks > 1
            else "; the files hold them in their own order"
        ),
        tensors=len(whole),
        elements=sum(matrix.numel() for matrix in whole.values()),
        largest_error=0.0,
    )


def _loaded(model: ModelUnderTest, path: Path) -> dict[str, torch.Tensor]:
    adapted = model.adapted()
    with torch.no_grad():
        for site in adapted.planned:
            site.a.fill_(-1.0)
            site.b.fill_(-1.0)
    with quiet():
        model.together(lambda: model.implementation.load(adapted.chunks, path))
    return whole_factors(model, adapted)


def _compare(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor], how: str) -> None:
    for name, matrix in expected.items():
        other = found.get(name)
        if other is None:
            raise Refuted(f"{how.capitalize()}: this factor is nowhere.", where=name[:-2])
        if not torch.equal(matrix, other):
            raise Refuted(
                f"{how.capitalize()}, {name[-1].upper()} is another matrix{_moved(matrix, other)}.", where=name[:-2]
            )


def _moved(expected: torch.Tensor, found: torch.Tensor) -> str:
    """Says when it is the same rows in another order."""
    if expected.shape != found.shape or expected.dim() != 2:
        return ""
    rows = {tuple(row.tolist()): number for number, row in enumerate(expected)}
    order = [rows.get(tuple(row.tolist())) for row in found]
    if None in order or sorted(order) != list(range(len(rows))):  # type: ignore[type-var]
        return ""
    first = next(number for number, row in enumerate(order) if row != number)
    return f": the same rows in another order (row {first} is row {order[first]})"


def _compare_files(whole: dict[str, torch.Tensor], path: Path) -> None:
    """Read the files as plain whole tensors: layers (and experts) may be stacked in front, rows are
    as they are.
    """
    from megatron.core import dist_checkpointing

    with quiet():
        stored = dist_checkpointing.load_plain_tensors(str(path))
    matrices = [matrix for tensor in _tensors(stored) for matrix in _stacked(tensor)]
    known = {_print(matrix) for matrix in matrices}
    for name, matrix in whole.items():
        if any(_print(each) not in known for each in _stacked(matrix)):
            raise Refuted(
                f"The files do not hold {name[-1].upper()} as it is: rows are in another order, or cut. Another "
                "layout, or another implementation, would "
                "load something else.",
                where=name[:-2],
            )


def _tensors(stored: object) -> Iterable[torch.Tensor]:
    if isinstance(stored, torch.Tensor):
        yield stored
    elif isinstance(stored, dict):
        for value in stored.values():
            yield from _tensors(value)


def _stacked(tensor: torch.Tensor) -> Iterable[torch.Tensor]:
    return tensor.reshape(-1, *tensor.shape[-2:]) if tensor.dim() > 2 else [tensor]


def _print(matrix: torch.Tensor) -> tuple[tuple[int, ...], bytes]:
    return tuple(matrix.shape), matrix.detach().to(torch.float64).contiguous().numpy().tobytes()
