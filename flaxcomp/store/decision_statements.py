"""The statements behind early stopping and search: what was decided, and what was asked for."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from flaxcomp.store.frame import Row
from flaxcomp.store.pack_statements import END_ATTEMPT, LEAVE_PACK, RESULT_COLUMNS, SET_TRIAL, PackStatements
from flaxcomp.store.rows import to_json, to_record
from flaxcomp.store.schema import rungs, suggestions
from flaxcomp.store.statements import mine

PAUSE_TRIAL = SET_TRIAL.values(
    status="pending", **{name: sa.bindparam(f"its_{name}") for name in (*RESULT_COLUMNS, "extra")}
)  # fmt: skip
STOP_TRIAL = SET_TRIAL.values(status="stopped", finished_at=sa.bindparam("at"))
DECIDE = (
    rungs.update()
    .where(mine(rungs), rungs.c.trial_id == sa.bindparam("of_trial"), rungs.c.epoch == sa.bindparam("at_epoch"))
    .values(goes_on=sa.bindparam("verdict"), decided_at=sa.bindparam("at"))
)


class DecisionStatements(PackStatements):
    """Packs pause at rungs, trials go on or are stopped; points are suggested."""

    def pause_pack(self, pack_id: str, attempt: int, epoch: int, results: Mapping[str, Row]) -> None:
        self._check_attempt(pack_id, attempt)
        running = self._members(pack_id, "running")
        if set(running) != set(results):
            raise ValueError(
                f"Pack {pack_id} pauses with one result for each trial it trains ({', '.join(sorted(running))}), "
                f"got results of {', '.join(sorted(results)) or 'none'}."
            )
        for trial_id, result in results.items():
            figures = {f"its_{name}": value for name, value in to_record(result, RESULT_COLUMNS).items()}
            self._execute(PAUSE_TRIAL, of_trial=trial_id, **figures)
        waiting = [{"trial_id": trial_id, "epoch": epoch, "pack_id": pack_id} for trial_id in results]
        self._upsert(rungs, waiting, update=("pack_id",))
        self._execute(LEAVE_PACK, of_pack=pack_id, to_status="closed")
        self._execute(END_ATTEMPT, of_pack=pack_id, of_attempt=attempt, at=self._now, to_outcome="paused", for_error=None)

    def decide(self, epoch: int, verdicts: Mapping[str, bool]) -> None:
        for trial_id, goes_on in verdicts.items():
            self._execute(DECIDE, of_trial=trial_id, at_epoch=epoch, verdict=goes_on, at=self._now)
            if not goes_on:
                self._execute(STOP_TRIAL, of_trial=trial_id, at=self._now)

    def add_suggestions(self, first: int, suggested: Sequence[tuple[Mapping[str, Any], str | None]]) -> None:
        rows = [{"number": first + place, "point": to_json(dict(values)), "trial_id": trial_id}
                for place, (values, trial_id) in enumerate(suggested)]  # fmt: skip
        self._insert(suggestions, rows)
