"""The tables of the store, one definition for SQLite and PostgreSQL.

Every table but `meta` carries `run_id`, so that one PostgreSQL database holds many runs. Times are seconds since 1970 (UTC).
Nested values are JSON text. A change here is a new schema version: add the step to `migrations.py`.
"""

from sqlalchemy import BigInteger, Boolean, Column, Double, Index, Integer, MetaData, Table, Text

metadata = MetaData()


def _run_id(*, key: bool = True) -> Column[str]:
    return Column("run_id", Text, primary_key=key, nullable=False)


meta = Table("meta", metadata, Column("key", Text, primary_key=True), Column("value", Text, nullable=False))

runs = Table(
    "runs",
    metadata,
    _run_id(),
    Column("name", Text, nullable=False),
    Column("sweep_text", Text, nullable=False),
    Column("sweep_json", Text, nullable=False),
    Column("created_at", Double, nullable=False),
)

# One row a run. `fence` grows with every acquire; a write names the one it was given and fails when that is not the last.
leases = Table(
    "leases",
    metadata,
    _run_id(),
    Column("fence", Integer, nullable=False),
    Column("held", Boolean, nullable=False),
    Column("host", Text),
    Column("pid", Integer),
    Column("process", Text),  # tells a recycled pid from the owner, see lease.process_identity
    Column("acquired_at", Double),
    Column("heartbeat_at", Double),
    Column("ttl_s", Double),
    Column("active_s", Double, nullable=False),  # of the controllers before this one
)

# What people ask of a running controller, which polls. The only rows that are written without the lease.
requests = Table(
    "requests",
    metadata,
    Column("id", Integer, primary_key=True),
    _run_id(key=False),
    Column("kind", Text, nullable=False),  # stop | retry
    Column("trial_ids", Text),  # JSON list; null: all
    Column("requested_at", Double, nullable=False),
    Index("requests_of_run", "run_id", "kind"),
)

trials = Table(
    "trials",
    metadata,
    _run_id(),
    Column("trial_id", Text, primary_key=True),
    Column("seq", Integer, nullable=False),
    Column("role", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("signature", Text, nullable=False),
    Column("config", Text, nullable=False),  # JSON, defaults left out
    Column("attempts", Integer, nullable=False),
    Column("finished_at", Double),
    Column("params", BigInteger),
    Column("trainable_params", BigInteger),
    Column("macs", BigInteger),
    Column("test_accuracy", Double),
    Column("test_precision", Double),
    Column("test_recall", Double),
    Column("test_f1", Double),
    Column("val_accuracy", Double),
    Column("train_seconds", Double),
    Column("extra", Text),  # whatever else was recorded
    Index("trials_by_status", "run_id", "status"),
    Index("trials_by_seq", "run_id", "seq"),
)

needs = Table(
    "needs",
    metadata,
    _run_id(),
    Column("trial_id", Text, primary_key=True),
    Column("needs_id", Text, primary_key=True),
    Index("needs_backwards", "run_id", "needs_id"),
)

packs = Table(
    "packs",
    metadata,
    _run_id(),
    Column("pack_id", Text, primary_key=True),
    Column("seq", Integer, nullable=False),
    Column("signature", Text, nullable=False),
    Column("status", Text, nullable=False),  # open | running | closed
    Column("attempt", Integer, nullable=False),  # the last one started, 0 before the first
    Column("worker", Text),
    Index("packs_by_status", "run_id", "status"),
    Index("packs_by_seq", "run_id", "seq"),
)

pack_trials = Table(
    "pack_trials",
    metadata,
    _run_id(),
    Column("pack_id", Text, primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("trial_id", Text, nullable=False),
)

attempts = Table(
    "attempts",
    metadata,
    _run_id(),
    Column("pack_id", Text, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("worker", Text, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("ended_at", Double),
    Column("outcome", Text, nullable=False),  # running | finished | interrupted | a kind of failure
    Column("error", Text),
)

# Which trials an attempt's failure struck. `counted` is cleared when the trial is reset by hand: it gets its retries anew.
failures = Table(
    "failures",
    metadata,
    _run_id(),
    Column("trial_id", Text, primary_key=True),
    Column("pack_id", Text, primary_key=True),
    Column("attempt", Integer, primary_key=True),  # of the pack
    Column("trial_attempt", Integer, nullable=False),  # how often the trial had been started
    Column("kind", Text, nullable=False),
    Column("counted", Boolean, nullable=False),
)

epochs = Table(
    "epochs",
    metadata,
    _run_id(),
    Column("trial_id", Text, primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("train_loss", Double),
    Column("val_loss", Double),
    Column("val_accuracy", Double),
    Column("learning_rate", Double),
    Column("images_per_second", Double),
    Column("extra", Text),
)

# Where `early_stop` decides: a row as soon as a trial has come there, its verdict later. `pack_id` has its checkpoint.
rungs = Table(
    "rungs",
    metadata,
    _run_id(),
    Column("trial_id", Text, primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("pack_id", Text, nullable=False),
    Column("goes_on", Boolean),  # null: not decided
    Column("decided_at", Double),
)

# The points that `method: optuna` has asked for, in their order.
suggestions = Table(
    "suggestions",
    metadata,
    _run_id(),
    Column("number", Integer, primary_key=True),
    Column("point", Text, nullable=False),  # JSON object: the parameters' values by their names
    Column("trial_id", Text),  # null: excluded
)

artifacts = Table(
    "artifacts",
    metadata,
    _run_id(),
    Column("trial_id", Text, primary_key=True),
    Column("artifact", Text, primary_key=True),  # empty where no file came of it, see `reason`
    Column("precision", Text, primary_key=True),
    Column("format", Text, primary_key=True),
    Column("size_bytes", BigInteger),
    Column("accuracy", Double),
    Column("accuracy_drop", Double),
    Column("flagged", Boolean),
    Column("extra", Text),
)

measurements = Table(
    "measurements",
    metadata,
    _run_id(),
    Column("trial_id", Text, primary_key=True),
    Column("artifact", Text, primary_key=True),
    Column("device", Text, primary_key=True),
    Column("protocol", Text, primary_key=True),
    Column("precision", Text),
    Column("size_bytes", BigInteger),
    Column("accuracy", Double),
    Column("accuracy_drop", Double),
    Column("device_model", Text),
    Column("emulated", Boolean),
    Column("latency_ms", Double),
    Column("latency_ci_low", Double),
    Column("latency_ci_high", Double),
    Column("peak_memory_bytes", BigInteger),
    Column("instructions", BigInteger),
    Column("extra", Text),
)

events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True),
    _run_id(key=False),
    Column("at", Double, nullable=False),
    Column("kind", Text, nullable=False),
    Column("text", Text, nullable=False),
    Index("events_of_run", "run_id"),
)
