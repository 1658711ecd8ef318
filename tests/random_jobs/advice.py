"""Take the advice of a message: what a user would write after reading it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from random_job import RandomJob

AXES = "tp|pp|vpp|cp|ep|etp"

CHOSEN = {"WEIGHT": 0.5}
"""Word in the place of a value -> what a user writes there."""
NOT_CHOSEN = ("VALUE", "N")
"""Words in the place of a value of which the message does not say enough to choose one."""


def followed(job: RandomJob, message: str) -> Iterator[tuple[str, RandomJob]]:
    """Yield each piece of advice in `message` that is an option or names targets, with the job of
    a user who follows it.
    """
    yield from _layouts(job, message)
    yield from _fields(job, message)
    for name, numbers in re.findall(r"(?:[Uu]se|usual for dim = \d+:) (dim|alpha) <?= ([\d or]+)", message):
        for number in re.findall(r"\d+", numbers):
            yield f"{name} = {number}", job.changed(lora={**job.lora, name: int(number)})
    yield from _targets(job, message)


def _layouts(job: RandomJob, message: str) -> Iterator[tuple[str, RandomJob]]:
    axis = re.match(rf"({AXES}) = \d+", message)
    sizes = re.search(r"It can (?:only )?be ([\d, ]+)\.", message)
    if axis and sizes:
        for size in re.findall(r"\d+", sizes[1]):
            yield f"{axis[1]} = {size}", _with_axis(job, axis[1], int(size))
    for name, size in re.findall(rf"--({AXES}) (\d+)", message):
        yield f"--{name} {size}", _with_axis(job, name, int(size))
    for name in re.findall(rf"(?:Leave|leave) out --({AXES})\b", message):
        yield f"no --{name}", _with_axis(job, name, 1)
    if "--no-sp" in message:
        yield "--no-sp", _with_axis(job, "sp", False)
    most = re.search(r"use at most pp x vpp = (\d+)", message)
    if most:
        yield most[0], _with_axis(_with_axis(job, "vpp", 1), "pp", int(most[1]))


def _with_axis(job: RandomJob, axis: str, size: object) -> RandomJob:
    layout = {**job.layout, axis: size}
    # The number of ranks that were asked for belongs to the old sizes.
    layout.pop("world_size", None)
    return job.changed(layout=layout)


def _fields(job: RandomJob, message: str) -> Iterator[tuple[str, RandomJob]]:
    """Follow `--set model.NAME=VALUE`, all of them together, and what to leave out."""
    fields: dict[str, Any] = {}
    for quoted, plain in re.findall(r"--set (?:'model\.([^']+)'|model\.(\S+))", message):
        name, _, value = (quoted or plain.rstrip(".,")).partition("=")
        if value not in NOT_CHOSEN:
            fields[name] = CHOSEN[value] if value.isupper() else msgspec.json.decode(value)
    left_out = re.findall(r"(?:leave out|in place of) ((?:\w+_\w+(?:, )?)+)", message)
    gone = {name for names in left_out for name in names.split(", ")}
    kept = {name: value for name, value in job.split.items() if name not in gone}
    if fields or (left_out and kept != job.split):
        own = {name: value for name, value in fields.items() if "pipeline" in name}
        other = {name: value for name, value in fields.items() if "pipeline" not in name}
        overrides = {**job.architecture.overrides, **other}
        architecture = type(job.architecture)(job.architecture.model_type, job.architecture.values, overrides)
        yield f"{fields} without {gone}", job.changed(split={**kept, **own}, architecture=architecture)


def _targets(job: RandomJob, message: str) -> Iterator[tuple[str, RandomJob]]:
    """Follow advice about the entries of `target_modules` or `exclude_modules`."""
    removed = re.search(r"remove from exclude_modules: (.+)", message)
    if removed:
        kept = [entry for entry in job.lora["exclude_modules"] if entry not in removed[1].split(", ")]
        yield removed[0], job.changed(lora={**job.lora, "exclude_modules": kept})
    typo = re.match(r'"(.+)" of exclude_modules matches', message)
    listed = "exclude_modules" if typo else "target_modules"
    if listed not in job.lora:
        return
    entries = job.lora[listed]
    for words, names in re.findall(
        r"(add|write|did you mean|model has): ((?:[\w.*{}]+(?: \(\d+\))?(?:, )?)+)", message
    ):
        named = [re.sub(r" \(\d+\)", "", name) for name in names.split(", ")]
        # A list that misses everything is replaced; a name that misses gives way to its neighbours.
        kept = entries if words == "add" else [entry for entry in entries if typo and entry != typo[1]]
        yield f"{words} {named}", job.changed(lora={**job.lora, listed: [*kept, *named]})
