"""A run's records as the plain rows of `RunFrame`."""

import functools
from datetime import UTC, datetime
from typing import Any

import msgspec

from flaxcomp.store.frame import MEASUREMENT_COLUMNS, TRIAL_COLUMNS, Row, RunFrame
from flaxcomp.store.reading import Reading
from flaxcomp.store.rows import from_record
from flaxcomp.sweep.ids import COLUMN_ORDER, flatten, plain
from flaxcomp.sweep.spec import Dataset, TrialConfig

# What the store keeps of a trial for itself.
INTERNAL = ("trial_id", "role", "seq", "signature", "config", "attempts", "finished_at")


def read_frame(run: Reading, *, epochs: bool) -> RunFrame:
    """Read a run as it was at one moment; the epochs, which may be many, if they are wanted."""
    with run.snapshot():
        sweep = run.sweep()
        trials = run.table("trials", order="seq")
        configs = {row["trial_id"]: flat_config(row["config"]) for row in trials}
        artifacts = [_artifact(row) for row in run.table("artifacts", order="trial_id, precision, format, artifact")]
        files = {(row["trial"], row["artifact"]): row for row in artifacts}
        measurements = run.table("measurements", order="trial_id, artifact, device, protocol")
        return RunFrame(
            name=run.name(),
            metrics=sweep.metrics,
            constraints=sweep.constraints,
            trials=[_trial(row, configs[row["trial_id"]]) for row in trials],
            epochs=[_named(from_record(row)) for row in (run.table("epochs", order="trial_id, epoch") if epochs else ())],
            artifacts=artifacts,
            measurements=[_measurement(row, configs.get(row["trial_id"], {}), files) for row in measurements],
            failures=[row | {"at": _iso(row["at"])} for row in run.failures()],
        )


def flat_config(config: str) -> dict[str, Any]:
    """A stored configuration in dotted columns, with the defaults that its canonical form leaves out.

    The options of a model are those that were given: their defaults are known to the model alone.
    """
    sections = _decode_sections(config)
    columns: dict[str, Any] = {}
    for name in COLUMN_ORDER:
        columns |= _flat_section(name, bytes(sections[name]) if name in sections else None)
    return columns


_FIELDS = {field.name: field.type for field in msgspec.structs.fields(TrialConfig)}
_DEFAULT = TrialConfig(dataset=Dataset(name=""), model={})
_decode_sections = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@functools.lru_cache(maxsize=1 << 14)
def _flat_section(name: str, text: bytes | None) -> dict[str, Any]:
    """One section in dotted columns; the trials of a sweep share most of theirs. Not to be changed."""
    value = getattr(_DEFAULT, name) if text is None else msgspec.json.decode(text, type=_FIELDS[name])
    return flatten({name: plain(value)}, lists=True)


def _trial(record: Row, config: dict[str, Any]) -> Row:
    figures = from_record({name: value for name, value in record.items() if name not in INTERNAL})
    return (
        {"trial": record["trial_id"], "role": record["role"]}
        | config
        | {name: figures[name] for name in TRIAL_COLUMNS}
        | figures
    )


def _artifact(record: Row) -> Row:
    row = _named(from_record(record))
    return row | {"artifact": row["artifact"] or None, "flagged": _truth(row["flagged"])}


def _measurement(record: Row, config: dict[str, Any], files: dict[tuple[str, str | None], Row]) -> Row:
    row = _named(from_record(record))
    file = files.get((row["trial"], row["artifact"]), {})
    figures = {name: file.get(name) if row[name] is None else row[name] for name in MEASUREMENT_COLUMNS}
    figures["emulated"] = _truth(figures["emulated"])
    return {"trial": row["trial"]} | config | figures | {name: value for name, value in row.items() if name not in figures}


def _named(row: Row) -> Row:
    return {"trial": row.pop("trial_id")} | row


def _truth(value: int | bool | None) -> bool | None:
    return None if value is None else bool(value)  # SQLite has no truth values


def _iso(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
