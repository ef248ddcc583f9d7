"""The JSON Schema of sweep files, for editors."""

from typing import Any, get_args

import msgspec

from flaxcomp.sweep.columns import config_columns
from flaxcomp.sweep.parameters import FORM_KEYS, Distribution
from flaxcomp.sweep.spec import SourceForm, Sweep, TrialForm

_REF = "#/$defs/{name}"
_NUMBER = {"type": "number"}


def sweep_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a sweep file.

    It describes `base` as a trial in which parts may be missing, and `parameters` in all their forms. What needs arithmetic or
    the catalogs (empty ranges, unknown models, expressions) is left to `flaxcomp plan`.
    """
    (sweep, trial, source), defs = msgspec.json.schema_components([Sweep, TrialForm, SourceForm], ref_template=_REF)
    for name in ("TrialForm", "TeacherForm", "SourceForm", "DistillForm", "Dataset"):
        defs[name].pop("required", None)  # parameters may bring it
    for name in ("TrialForm", "TeacherForm", "SourceForm"):
        defs[name]["properties"]["model"] = {"$ref": "#/$defs/Model"}
    defs["Model"] = {
        "type": "object",
        "description": "An architecture's name and its options.",
        "properties": {"name": {"type": "string"}},
    }
    properties = defs["Sweep"]["properties"]
    properties["base"] = trial
    properties["teachers"]["additionalProperties"] = source | {"required": ["model"]}
    properties["parameters"] = {
        "default": {},
        "anyOf": [{"$ref": "#/$defs/Parameters"}, {"type": "array", "items": {"$ref": "#/$defs/Parameters"}, "minItems": 1}],
    }
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "flaxcomp sweep",
        **sweep,
        "$defs": defs | _parameter_definitions(),
    }
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(schema))  # tuples become lists
    return plain


def _parameter_definitions() -> dict[str, Any]:
    """The forms that `flaxcomp.sweep.parameters` reads."""
    form, nested = {"$ref": "#/$defs/Parameter"}, {"$ref": "#/$defs/Nested"}
    bounds = {"type": "array", "items": _NUMBER, "minItems": 2, "maxItems": 3}
    interval = {"min": _NUMBER, "max": _NUMBER, "distribution": {"enum": list(get_args(Distribution))}}
    forms = [
        _object({"values": {"type": "array", "minItems": 1}}, ["values"]),
        _object({"value": {}}, ["value"]),
        _object({"range": bounds | {"description": "start, stop (exclusive), step"}}, ["range"]),
        _object(interval, ["min", "max"]),
    ]
    either = {"if": {"anyOf": [{"required": [key]} for key in FORM_KEYS]}, "then": form, "else": nested}
    sections = list(msgspec.json.schema_components([TrialForm])[1]["TrialForm"]["properties"])
    return {
        "Parameter": {"description": "What one part of a trial takes.", "oneOf": forms},
        "Nested": {"type": "object", "minProperties": 1, "additionalProperties": either},
        "Parameters": {
            "type": "object",
            "description": "Paths such as train.epochs, or the same nested, to the values they take.",
            "properties": dict.fromkeys((*config_columns(), "parameters"), either),
            "patternProperties": {rf"^({'|'.join(sections)})(\..+)?$": either},
            "additionalProperties": False,
        },
    }


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
