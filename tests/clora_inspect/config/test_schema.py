"""The settings say what `CanonicalLoRA` and the committed schema say; the template is a
configuration that works.
"""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

import jsonschema
import pytest

from clora.canonical_lora import CanonicalLoRA
from clora_inspect.config.jobs import configured_jobs
from clora_inspect.config.json_schema import json_schema, rendered
from clora_inspect.config.load import load
from clora_inspect.config.provenance import values
from clora_inspect.config.settings import LoRATable
from clora_inspect.config.template import job_name, template

REPOSITORY = Path(__file__).parents[3]


def test_the_lora_table_has_the_fields_of_canonical_lora() -> None:
    assert list(LoRATable.__struct_fields__) == [
        field.name for field in dataclasses.fields(CanonicalLoRA) if field.init
    ]


def test_the_committed_schema_is_current() -> None:
    committed = REPOSITORY / "schemas" / "clora-inspect.schema.json"
    assert committed.read_text() == rendered(), (
        "write it anew: clora-inspect config schema -o schemas/clora-inspect.schema.json"
    )


def test_the_schema_is_one_and_tells_right_from_wrong() -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    own = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["clora-inspect"]
    jsonschema.validate(own, schema)
    with pytest.raises(jsonschema.ValidationError, match="fail_on"):
        jsonschema.validate({"check": {"fail_on": "error"}}, schema)


@pytest.mark.parametrize(
    "model", ["llama3-8b", "deepseek-v3", "deepseek-v2-lite", "nemotron-4-15b", "recipes/llama3.py:build_8b"]
)
@pytest.mark.parametrize("prefix", [True, False])
def test_the_template_is_a_valid_configuration(tmp_path: Path, model: str, prefix: bool) -> None:
    from clora_inspect.sources.definition import load_definition

    name = "pyproject.toml" if prefix else "clora-inspect.toml"
    (tmp_path / name).write_text(template(model, load_definition(model).config, prefix=prefix))
    (job,) = configured_jobs(load(tmp_path, environ={}))
    assert job.job.model == model
    assert job.name == job_name(model)
    assert ("linear_fc1_gate" in job.job.lora.target_modules) is (model != "nemotron-4-15b")


def test_every_value_is_shown_as_toml_that_reads_back(tmp_path: Path) -> None:
    (tmp_path / "clora-inspect.toml").write_text(
        'snapshots = "a b"\n[lora.main]\ndim = 4\n[jobs."a.b"]\nmodel = "m"\nlora = { alpha = 3 }\nset.model = { x = [1, true], y.z = "q" }\n'
        '[[allow]]\nrule = "CL104"\nuntil = 2027-03-31\n'
    )
    shown = {value.key: value for value in values(load(tmp_path, environ={}))}
    assert shown['jobs."a.b".lora.alpha'].toml == "3.0"
    assert shown["allow[0].until"].toml == "2027-03-31"
    assert shown["check.fail-on"].origin == "default"
    for value in shown.values():
        assert tomllib.loads(f"v = {value.toml}")["v"] == value.value
