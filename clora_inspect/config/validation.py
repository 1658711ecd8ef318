"""Check the tables of a configuration and make `Settings` of them, collecting every problem.

msgspec would do both in one call, but it stops at the first problem. So each table is converted on
its own, and keys that do not exist are looked for first.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin

import msgspec

from clora.canonical_lora import CanonicalLoRA
from clora.errors import CloraError, LayoutError
from clora.limits import LARGEST_ALLOW
from clora_inspect.config.errors import Problem
from clora_inspect.config.key_path import KeyPath, written
from clora_inspect.config.lora_file.reader import is_lora_file
from clora_inspect.config.settings import AllowEntry, CheckTable, JobTable, LoRATable, SetTable, Settings, TuiTable
from clora_inspect.job.layout import Layout
from clora_inspect.job.recompute import GRAMMAR, SHOWN, recompute_fields
from clora_inspect.job.workload import Workload, WorkloadError
from clora_inspect.sources.nearest import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T", bound=msgspec.Struct)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
"""The form of a name of a job or layout: it is also a folder or a file under `snapshots`."""

# Parts of a message of msgspec: "Expected `int`, got `str` - at `$.target_modules[2]`".
_PATH = re.compile(r" - at `\$([^`]*)`$")
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")
_FIELD = re.compile(r"(\w+)")

TYPES_IN_WORDS = {
    "object": "a table",
    "array": "an array",
    "str": "a string",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "date": "a date",
}


MOST_PROBLEMS = 100
"""Mistakes that are reported one by one."""


class Validator:
    """Makes the settings of one configuration and collects its problems."""

    def __init__(self, problem_at: Callable[[KeyPath, bool, str], Problem]) -> None:
        """Make a validator that has no problems yet.

        Args:
            problem_at: makes a problem from a key, whether the key itself is wrong (not its value),
                and the message. It knows where the key came from.
        """
        self.problems: list[Problem] = []
        self._problem_at = problem_at

    def settings(self, raw: Mapping[str, Any]) -> Settings:
        """Return the settings in `raw`. They must not be used if there are `problems` then."""
        raw = self._without_unknown_keys(Settings, raw, ())
        # LoRAs come before the jobs that name them.
        lora = self._tables_by_name(raw, "lora", self._lora)
        jobs = self._tables_by_name(raw, "jobs", lambda table, path: self._job(table, path, lora))
        # The other keys are tables, which are converted one by one below.
        plain = {key: value for key, value in raw.items() if key in ("snapshots", "default", "rules")}
        settings = self._convert(Settings, plain, ()) or Settings()
        return msgspec.structs.replace(
            settings,
            lora={name: table for name, table in lora.items() if table is not None},
            jobs={name: table for name, table in jobs.items() if table is not None},
            check=self._sub_table(CheckTable, raw, ("check",)),
            tui=self._sub_table(TuiTable, raw, ("tui",)),
            allow=self._allow(raw),
            default=self._default(settings.default, jobs),
        )

    def report(self, key: KeyPath, message: str, *, of_key: bool = False) -> None:
        """Add a problem: at the value of `key`, or with `of_key` at the key itself."""
        # The first mistakes tell what is wrong, and each one costs a search for its line.
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(self._problem_at(key, of_key, message))
        elif len(self.problems) == MOST_PROBLEMS:
            self.problems.append(self._problem_at((), False, f"it has more than {MOST_PROBLEMS} mistakes."))

    def _job(self, raw: dict[str, Any], path: KeyPath, lora: Mapping[str, LoRATable | None]) -> JobTable | None:
        raw = self._without_unknown_keys(JobTable, raw, path)
        layouts = self._tables_by_name(raw, "layouts", self._layout, path)
        in_place, name = None, raw.get("lora")
        if isinstance(name, dict):
            in_place = self._lora(name, (*path, "lora"))
        elif isinstance(name, str) and name not in lora and not is_lora_file(name):
            self.report(
                (*path, "lora"),
                f"no [{written(('lora', name))}] is defined{nearest(name, lora)} A folder is written with a slash: "
                f"./{name}",
            )
        set_table = self._sub_table(SetTable, raw, (*path, "set"))
        workload = self._sub_table(Workload, raw, (*path, "workload"))
        self._check_batch(workload, layouts, (*path, "workload"))
        self._check_recompute(workload, set_table.model, path)
        # The tables in the job have been converted; what is left is plain values.
        plain = {
            key: value
            for key, value in raw.items()
            if key not in ("layouts", "set", "workload") and not (key == "lora" and isinstance(value, dict))
        }
        if "model" not in raw:
            self.report(path, 'key model is missing: what to build, such as model = "llama3-8b".', of_key=True)
            return None
        job = self._convert(JobTable, plain, path)
        if job is None:
            return None
        return msgspec.structs.replace(
            job,
            layouts={name: layout for name, layout in layouts.items() if layout is not None},
            lora=in_place or job.lora,
            set=set_table,
            workload=workload,
        )

    def _check_recompute(self, workload: Workload, fields: Mapping[str, Any], path: KeyPath) -> None:
        """Report a workload that says of recomputation what the fields of the model contradict."""
        said = {} if workload.recompute is None else recompute_fields(workload.recompute)
        for name in fields.keys() & said.keys():
            if fields[name] != said[name]:
                self.report(
                    (*path, "workload", "recompute"),
                    f"it sets {name} = {_shown(said[name])}, and set.model.{name} = {_shown(fields[name])} contradicts "
                    "it. Leave one of the two out.",
                )
                return

    def _check_batch(self, workload: Workload, layouts: Mapping[str, Layout | None], path: KeyPath) -> None:
        for layout in layouts.values() if layouts else (Layout(),):
            try:
                if layout is not None:
                    workload.check_batch(layout)
            except WorkloadError as error:
                self.report((*path, "global_batch_size"), str(error))
                return

    def _lora(self, raw: dict[str, Any], path: KeyPath) -> LoRATable | None:
        raw = self._without_unknown_keys(LoRATable, raw, path)
        table = self._convert(LoRATable, raw, path)
        if table is None:
            return None
        try:
            CanonicalLoRA(**table.written())
        except CloraError as error:
            self.report((*path, *_field_named_in(str(error), table.written())), str(error))
        return table

    def _layout(self, raw: dict[str, Any], path: KeyPath) -> Layout | None:
        raw = self._without_unknown_keys(Layout, raw, path)
        try:
            # `Layout` checks its sizes when it is made. Its messages have the numbers.
            checked: Layout | None = self._convert(Layout, raw, path)
        except LayoutError as error:
            self.report((*path, *_field_named_in(str(error), raw)), str(error))
            return None
        return checked

    def _allow(self, raw: Mapping[str, Any]) -> list[AllowEntry]:
        entries = raw.get("allow", [])
        if not isinstance(entries, list):
            self.report(("allow",), "it is an array of tables: write [[allow]] entries.")
            return []
        if len(entries) > LARGEST_ALLOW:
            self.report(
                ("allow",), f"it has {len(entries):,} entries, and {LARGEST_ALLOW:,} is the most: allow whole rules."
            )
            return []
        made = []
        for number, entry in enumerate(entries):
            path: KeyPath = ("allow", number)
            if not isinstance(entry, dict):
                self.report(
                    path, f'it is a table such as {{ rule = "CL104", reason = "..." }}, not {_type_in_words(entry)}.'
                )
                continue
            if "rule" not in entry:
                self.report(
                    path, 'key rule is missing: the code of what is allowed, such as rule = "CL104".', of_key=True
                )
                continue
            if entry["rule"] == "":
                # An entry covers all codes that begin with its rule, so this one would cover all.
                self.report((*path, "rule"), 'it is empty: write the code of what is allowed, such as rule = "CL104".')
                continue
            table = self._convert(AllowEntry, self._without_unknown_keys(AllowEntry, entry, path), path)
            made += [table] if table is not None else []
        return made

    def _default(self, default: str | None, jobs: Mapping[str, Any]) -> str | None:
        # A job with mistakes is in `jobs` as well, as None: it needs no second message here.
        if default is not None and default not in jobs:
            self.report(("default",), f"no job of that name is configured{nearest(default, jobs)}")
        return default

    def _tables_by_name(
        self, raw: Mapping[str, Any], key: str, read: Callable[[dict[str, Any], KeyPath], T | None], path: KeyPath = ()
    ) -> dict[str, T | None]:
        """Read the tables under `key`, such as [jobs.NAME], and return them by name."""
        tables = raw.get(key, {})
        if not isinstance(tables, dict):
            self.report((*path, key), f"it is a table of tables by name, not {_type_in_words(tables)}.")
            return {}
        made: dict[str, T | None] = {}
        for name, table in tables.items():
            at = (*path, key, name)
            if not NAME.fullmatch(name):
                self.report(
                    at,
                    f"{name!r} is no name for a file: use letters, digits, and . _ + - after the first.",
                    of_key=True,
                )
            elif not isinstance(table, dict):
                self.report(at, f"it is a table, not {_type_in_words(table)}{self._misplaced(key, name)}")
            else:
                made[name] = read(table, at)
        return made

    @staticmethod
    def _misplaced(key: str, name: str) -> str:
        """Say how to fix a field in the place of a name: `lora.dim` for `lora.main.dim`."""
        if key == "lora" and name in LoRATable.__struct_fields__:
            return f". Give the LoRA a name: [lora.main] with {name} in it."
        if key == "layouts" and name in Layout.__struct_fields__:
            return f". Give the layout a name: layouts = {{ train = {{ {name} = ... }} }}."
        return "."

    def _sub_table(self, kind: type[T], raw: Mapping[str, Any], path: KeyPath) -> T:
        table = raw.get(str(path[-1]), {})
        if not isinstance(table, dict):
            self.report(path, f"it is a table, not {_type_in_words(table)}.")
            return kind()
        return self._convert(kind, self._without_unknown_keys(kind, table, path), path) or kind()

    def _without_unknown_keys(
        self, kind: type[msgspec.Struct], raw: Mapping[str, Any], path: KeyPath
    ) -> dict[str, Any]:
        """Report each key that `kind` does not have, and return `raw` without those."""
        known = [field.encode_name for field in msgspec.structs.fields(kind)]
        for key in raw:
            if key not in known:
                if len(self.problems) > MOST_PROBLEMS:
                    break
                # A key with the other mark, `fail_on` or `seq-length`, is the most likely mistake.
                other = key.replace("_", "-") if "_" in key else key.replace("-", "_")
                near = nearest(other if other in known else key, known)
                hint = near if near != "." else f". It has: {', '.join(known)}."
                self.report((*path, key), f'unknown key "{key}"{hint}', of_key=True)
        return {key: value for key, value in raw.items() if key in known}

    def _convert(self, kind: type[T], raw: Mapping[str, Any], path: KeyPath) -> T | None:
        try:
            return msgspec.convert(raw, kind)
        except msgspec.ValidationError as error:
            # `__post_init__` of a struct, such as `Layout`, raised it; msgspec wrapped it.
            if isinstance(error.__cause__, CloraError):
                raise error.__cause__ from None
            message = str(error)
            found = _PATH.search(message)
            steps = _steps(found[1]) if found else ()
            self.report((*path, *steps), in_words(_PATH.sub("", message)) + _choices(kind, steps))
            return None


def _steps(path: str) -> KeyPath:
    """Parse `.target_modules[2]` into `("target_modules", 2)`, up to a `...` of msgspec's."""
    steps: list[str | int] = []
    for name, index in _STEP.findall(path):
        if index == "...":
            break
        steps.append(int(index) if index else name)
    return tuple(steps)


def in_words(message: str) -> str:
    """Return a sentence for a message of msgspec, with TOML's names of types."""
    found = re.fullmatch(r"Expected `([^`]+)`, got `([^`]+)`", message)
    # msgspec says "Invalid RFC3339 encoded date".
    if "RFC3339" in message:
        return "it is not a date: write one as 2027-03-31."
    if r"'\\S'" in message:
        return "it is empty. Write a value, or leave the key out."
    # msgspec shows the expression.
    if GRAMMAR in message:
        return f"expected {SHOWN}."
    if (bound := re.fullmatch(r"Expected `(int|float)` ([<>]=?) (\S+)", message)) is not None:
        return f"expected {TYPES_IN_WORDS[bound[1]]} {bound[2]} {bound[3].removesuffix('.0')}."
    if found is None:
        return f"{message[0].lower()}{message[1:]}."
    # "null" stands for a key that may be left out: TOML has no null.
    expected = " or ".join(TYPES_IN_WORDS.get(kind, kind) for kind in found[1].split(" | ") if kind != "null")
    return f"expected {expected}, got {TYPES_IN_WORDS.get(found[2], found[2])}."


def _choices(kind: type[msgspec.Struct], steps: KeyPath) -> str:
    """Return a sentence with the values of an enum or a literal; empty for other fields."""
    # Types are nested: `Annotated[Literal["a", "b"] | None, Meta(...)]`.
    types = [field.type for field in msgspec.structs.fields(kind) if steps and field.encode_name == steps[0]]
    while types:
        described = types.pop()
        if isinstance(described, type) and issubclass(described, Enum):
            return f" It is {' or '.join(described)}."
        if get_origin(described) is Literal:
            return f" It is {' or '.join(get_args(described))}."
        types += [argument for argument in get_args(described) if not isinstance(argument, msgspec.Meta)]
    return ""


def _shown(value: object) -> str:
    return "null" if value is None else str(value)[:80]


def _type_in_words(value: object) -> str:
    name = type(value).__name__
    # The table has the names of types that msgspec uses in its messages.
    return TYPES_IN_WORDS.get({"dict": "object", "list": "array"}.get(name, name), name)


def _field_named_in(message: str, fields: Mapping[str, Any]) -> KeyPath:
    """Return the field, and the element of its array, that an error message is about.

    `CanonicalLoRA` and `Layout` raise one message for the whole table. It is about the first of
    `fields` that it names; of an array, about the first element that it quotes.
    """
    name = next((word for word in _FIELD.findall(message) if word in fields), None)
    if name is None:
        return ()
    value = fields[name]
    if isinstance(value, list):
        places = {number: message.find(f"'{item}'") for number, item in enumerate(value) if isinstance(item, str)}
        quoted = min(
            (number for number, place in places.items() if place >= 0), key=lambda number: places[number], default=None
        )
        return (name,) if quoted is None else (name, quoted)
    return (name,)
