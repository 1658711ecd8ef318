"""Compare what a rank holds with what is expected of it, in the words of `diff`. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from clora.layer_pattern import without_release
from clora_inspect.job.module_path import folded
from clora_inspect.job.towers import LANGUAGE_MODEL, Towers
from clora_inspect.job.versions import NOT_INSTALLED, STAND_IN
from clora_inspect.launch.difference import Difference, Topic, ordered
from clora_inspect.launch.expected import OF_THE_MODEL
from clora_inspect.snapshot.diff import compare, mesh_changes, moved_layers, value_text
from clora_inspect.snapshot.record import stage_text, with_placements

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clora_inspect.launch.expected import Expected
    from clora_inspect.launch.live import LiveRank
    from clora_inspect.snapshot.drift import DriftLine
    from clora_inspect.snapshot.record import PlacementLine

_SEEN_IN_ADAPTERS = ("dim", "normalize_moe_lora", "share_expert_adapters")
"""Settings that show in the shapes of the adapters and nowhere else."""

_DECIDING = ("clora-inspect", "torch", "megatron-core", "transformer-engine")


def compare_rank(expected: Expected, live: LiveRank) -> tuple[Difference, ...]:
    """Return everything in which one rank is not what is expected."""
    return ordered(
        [
            *_layout(expected, live),
            *_base(expected, live),
            *_settings(expected, live),
            *_adapters(expected, live),
            *live.not_in_effect,
            *_config(expected, live),
            *_versions(expected, live),
        ]
    )


def compare_model(expected: Expected, live: LiveRank) -> tuple[Difference, ...]:
    """Return in which layout, modules and versions a rank is not what a file was made of."""
    return ordered([*_layout(expected, live), *_base(expected, live), *_releases(expected, live)])


def compare_adapters(expected: Expected, live: LiveRank) -> tuple[Difference, ...]:
    """Return in which adapters a rank is not what is expected of it."""
    return tuple(_adapters(expected, live))


def compare_facts(first: Mapping[str, Any], own: Mapping[str, Any], topic: Topic) -> Iterator[Difference]:
    """Yield in which facts a rank is not as rank 0 is."""
    for name in sorted({*first, *own}):
        if first.get(name) != own.get(name):
            yield Difference(
                topic=topic, text=f"{name} is {_value(own.get(name))}, and {_value(first.get(name))} on rank 0"
            )


def held_lines(expected: Expected, live: LiveRank) -> list[bool]:
    """Return for each line of the file whether this rank has the module that it adapts."""
    return [_module_of(line) in live.modules for line in expected.snapshot.placements]


def missing_differences(expected: Expected, held: Iterable[bool]) -> Iterator[Difference]:
    """Yield the adapters whose modules no rank has.

    Args:
        expected: what the file says.
        held: for each line of the file, whether any rank has its module.
    """
    lines = [line.at for line, found in zip(expected.snapshot.placements, held, strict=True) if not found]
    for where, count in folded(lines):
        what = (
            "no rank has the module, and an adapter is" if count == 1 else f"no rank has them, and {count} adapters are"
        )
        yield Difference(topic=Topic.BASE, where=where, text=f"{what} expected there")


def params_difference(expected: Expected, params: int) -> Iterator[Difference]:
    """Yield whether the whole model has another size than expected."""
    if params != expected.snapshot.base.params:
        yield Difference(
            topic=Topic.BASE,
            text=f"the model has {params:,} parameters, and {expected.snapshot.base.params:,} are expected",
        )


def _layout(expected: Expected, live: LiveRank) -> Iterator[Difference]:
    was = expected.snapshot.layout
    for text in mesh_changes(was, live.layout):
        yield Difference(topic=Topic.LAYOUT, text=text)
    if was.pp == live.layout.pp and live.stage < len(was.stages):
        towers = expected.snapshot.base.towers
        layers = stage_text(live.decoder_layers(LANGUAGE_MODEL if towers is None else Towers(towers)))
        if layers != was.stages[live.stage]:
            yield Difference(topic=Topic.LAYOUT, text=moved_layers(live.stage, was.stages[live.stage], layers))


def _base(expected: Expected, live: LiveRank) -> Iterator[Difference]:
    was = expected.snapshot.base.class_name
    if was and was != live.class_name:
        yield Difference(topic=Topic.BASE, text=f"the model is a {live.class_name}, and a {was} is expected")
    planned_dtype = expected.plan.model.dtype if expected.plan is not None else None
    if planned_dtype is not None and (held := live.config["weights"]) and planned_dtype not in held:
        yield Difference(
            topic=Topic.BASE, text=f"the weights are {' and '.join(held)}, and {planned_dtype} was planned"
        )
    if expected.modules is None or live.layout.pp != len(expected.modules):
        return
    planned = expected.modules[live.stage]
    found: dict[str, list[str]] = {}
    for path in {**planned, **live.modules}:
        text = _module_text(planned.get(path), live.modules.get(path))
        if text is not None:
            found.setdefault(text, []).append(path)
    for text, paths in found.items():
        for where, _ in folded(paths):
            yield Difference(topic=Topic.BASE, where=where, text=text)


def _module_text(planned: Any, live: Any) -> str | None:
    """Say in which way a module is not the planned one; None if it is."""
    # A dropout, or a kernel that an attention may choose: these come and go with releases.
    if (planned is None and live.params == 0) or (live is None and planned.params == 0):
        return None
    if planned is None:
        return f"is a {live.class_name} that was not planned"
    if live is None:
        return f"a {planned.class_name} was planned, and there is none"
    if planned.class_name != live.class_name:
        return f"is a {live.class_name}, and a {planned.class_name} was planned"
    if planned.params is not None and planned.params != live.params:
        return f"has {live.params:,} parameters on this rank, and {planned.params:,} were planned"
    return None


def _settings(expected: Expected, live: LiveRank) -> Iterator[Difference]:
    for name, was in sorted(expected.snapshot.lora.items()):
        if name in _SEEN_IN_ADAPTERS:
            continue
        values = live.settings.get(name, {})
        for value, adapters in values.items():
            if value != was:
                # Without a place, it is every adapter of the rank.
                places = [None] if len(values) == 1 else [where for where, _ in folded(adapters)]
                text = f"{name} {_value(was)} -> {_value(value)}"
                yield from (Difference(topic=Topic.SETTINGS, where=where, text=text) for where in places)


def _adapters(expected: Expected, live: LiveRank) -> Iterator[Difference]:
    """Compare the adapters of the modules that this rank has."""
    lines = [line for line in expected.snapshot.placements if _module_of(line) in live.modules]
    before = with_placements(expected.snapshot, lines)
    for line in compare(before, with_placements(expected.snapshot, live.lines)).lines:
        yield Difference(topic=Topic.ADAPTERS, where=line.where, text=_line_text(line))


def _line_text(line: DriftLine) -> str:
    if line.before is None:
        return f"an adapter that is not expected: {line.after}"
    if line.after is None:
        return f"no adapter, and one is expected: {line.before}"
    return f"{line.before} -> {line.after}"


def _config(expected: Expected, live: LiveRank) -> Iterator[Difference]:
    run = expected.snapshot.run
    if run is not None:
        for name in sorted({*run.config, *live.config}):
            if run.config.get(name) != live.config.get(name):
                yield _config_difference(name, run.config.get(name), live.config.get(name))
        return
    # A plan is made without the settings of a launcher, so only what it sets can be asked for.
    for name, value in (expected.planned_config or {}).items():
        if live.config.get(name) != value:
            yield _config_difference(name, value, live.config.get(name))
    for name, value in live.config.items():
        # The plan has no field that is at its default. A launcher sets many of them, but not these.
        if expected.planned_config is not None and name in OF_THE_MODEL and name not in expected.planned_config:
            yield _config_difference(name, None, value)


def config_changes(was: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[str]:
    """Yield in which fields the config of a run is not what a job asks for.

    Args:
        was: the fields of the run that were not the default.
        asked: the fields that the job asks for.
    """
    for name, value in sorted(asked.items()):
        if was.get(name) != value:
            yield f"{name} {_value(was.get(name))} -> {_value(value)}"


def _config_difference(name: str, was: object, now: object) -> Difference:
    if now is None:
        text = f"{name} {_value(was)} was asked for and is not in effect: it is at its default"
    else:
        text = f"{name} {_value(was)} -> {_value(now)}"
    return Difference(topic=Topic.CONFIG, text=text)


def _versions(expected: Expected, live: LiveRank) -> Iterator[Difference]:
    run = expected.snapshot.run
    for name in sorted(live.versions) if run is not None else ():
        was = run.versions.get(name) if run is not None else None
        if was != live.versions[name]:
            yield Difference(topic=Topic.VERSIONS, text=f"{name} {_value(was)} -> {live.versions[name]}")


def _releases(expected: Expected, live: LiveRank) -> Iterator[Difference]:
    """Yield the packages that decide what is built, where the file was made with other releases."""
    planned = expected.plan.versions if expected.plan is not None else {}
    if expected.snapshot.run is not None:
        planned = expected.snapshot.run.versions
    for name in _DECIDING:
        # The stand-in has the shapes of the real package, and a plan is often made without a GPU.
        if name not in planned or STAND_IN in (planned[name], live.versions.get(name)):
            continue
        was, now = (_release(version) for version in (planned[name], live.versions.get(name, NOT_INSTALLED)))
        if was != now:
            yield Difference(topic=Topic.VERSIONS, text=f"{name} {was} -> {now}")


def _release(version: str) -> str:
    """Return the release without the build: `2.10.0` for `2.10.0+cu128`."""
    return version.partition("+")[0]


def _module_of(line: PlacementLine) -> str:
    return without_release(line.at.partition("[")[0])


def _value(value: object) -> str:
    written = msgspec.json.encode(value).decode() if isinstance(value, list | dict) else value
    return value_text(written, absent="at its default")
