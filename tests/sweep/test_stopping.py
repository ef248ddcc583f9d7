"""Rules of early stopping on curves worked out by hand, and what holds for all curves."""

from itertools import islice

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxcomp.sweep.load import load_text
from flaxcomp.sweep.plan import make_plan
from flaxcomp.sweep.stopping import EarlyStop
from sweep_samples import FakeCatalog

ASHA = EarlyStop(name="asha", grace_epochs=1, factor=3)


def at_rung(*values: float | None) -> dict[str, list[float | None]]:
    """Curves of one epoch; trials are called a, b, c, ..."""
    return {chr(ord("a") + place): [value] for place, value in enumerate(values)}


def test_rungs_of_asha_are_powers_of_the_factor_times_the_grace() -> None:
    assert list(EarlyStop(name="asha", grace_epochs=2, factor=3).rungs(54)) == [2, 6, 18], "54 is the end, not a rung"
    assert list(islice(EarlyStop(name="asha", factor=2).rungs(None), 4)) == [1, 2, 4, 8]
    assert list(EarlyStop(name="median", grace_epochs=3, every_epochs=2).rungs(8)) == [3, 5, 7]


def test_the_next_rung_is_one_after_what_was_reached() -> None:
    spec = EarlyStop(name="asha", grace_epochs=2, factor=3)
    assert [spec.next_rung(reached, 20) for reached in (0, 1, 2, 6, 18)] == [2, 2, 6, 18, None]


def test_asha_lets_the_best_third_go_on() -> None:
    curves = at_rung(0.1, 0.9, 0.5, 0.8, 0.3, 0.2, 0.7)  # ceil(7 / 3) = 3
    assert ASHA.stops(1, curves, set(curves)) == {"a", "c", "e", "f"}


def test_asha_of_a_loss_lets_the_smallest_go_on() -> None:
    spec = EarlyStop(name="asha", metric="val_loss", factor=2)
    assert spec.stops(1, at_rung(2.3, 0.4, 1.1), {"a", "b", "c"}) == {"a"}


def test_of_equal_values_the_smaller_id_goes_on() -> None:
    assert ASHA.stops(1, at_rung(0.5, 0.5, 0.5), {"a", "b", "c"}) == {"b", "c"}


def test_a_late_trial_is_ranked_among_all_that_came_to_the_rung_before() -> None:
    curves = at_rung(0.9, 0.8, 0.1, 0.2, 0.3)  # d and e come later; ceil(5 / 3) = 2
    assert ASHA.stops(1, curves, {"d", "e"}) == {"d", "e"}
    assert ASHA.stops(1, at_rung(0.9, 0.1, 0.2, 0.3, 0.85), {"d", "e"}) == {"d"}


def test_trials_that_never_came_to_the_rung_do_not_count_there() -> None:
    curves = {"a": [0.9, 0.9, 0.91], "b": [0.8, 0.8, 0.92], "c": [0.1], "d": [0.2]}
    assert ASHA.stops(3, curves, {"a", "b"}) == {"a"}, "ceil(2 / 3) = 1, the better after the third epoch"


def test_what_has_diverged_is_stopped_even_as_the_best() -> None:
    spec = EarlyStop(name="asha", metric="val_loss", factor=2)
    assert spec.stops(1, at_rung(None, None), {"a", "b"}) == {"a", "b"}


def test_median_compares_the_best_with_the_others_averages() -> None:
    spec = EarlyStop(name="median", grace_epochs=2, min_trials=3)
    curves = {
        "a": [0.2, 0.4],  # average 0.3, best 0.4
        "b": [0.5, 0.7],  # 0.6
        "c": [0.6, 0.5],  # 0.55: the median
        "d": [0.1, 0.2],  # 0.15
        "e": [0.7, 0.9],  # 0.8
    }
    assert spec.stops(2, curves, set(curves)) == {"a", "d"}
    curves["a"][1] = 0.56  # its best passes the median of the averages, though its average does not
    assert spec.stops(2, curves, set(curves)) == {"d"}


def test_stopped_trials_keep_their_place_under_the_median() -> None:
    spec = EarlyStop(name="median", min_trials=1)
    first = at_rung(0.1, 0.2, 0.8, 0.9)
    assert spec.stops(1, first, set(first)) == {"a", "b"}
    curves = {"a": [0.1], "b": [0.2], "c": [0.8, 0.82], "d": [0.9, 0.95]}
    assert spec.stops(2, curves, {"c", "d"}) == set(), "or each rung would halve what is left"


def test_few_trials_are_not_stopped_by_the_median() -> None:
    curves = at_rung(0.1, 0.9, 0.8)
    assert EarlyStop(name="median", min_trials=4).stops(1, curves, set(curves)) == set()
    assert EarlyStop(name="median", min_trials=3).stops(1, curves, set(curves)) == {"a"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "median", "factor": 4}, "factor is for `name: asha`, got `name: median`"),
        ({"name": "asha", "every_epochs": 2}, "every_epochs is for `name: median`"),
        ({"name": "asha", "factor": 1}, ">= 2"),
        ({"name": "hyperband"}, "hyperband"),
        ({"name": "asha", "metric": "test_accuracy"}, "test_accuracy"),
    ],
)
def test_bad_rules_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(given, EarlyStop)


curve = st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=1, max_size=4)
rules = st.one_of(
    st.builds(EarlyStop, name=st.just("asha"), factor=st.integers(2, 5), metric=st.sampled_from(["val_accuracy", "val_loss"])),
    st.builds(EarlyStop, name=st.just("median"), min_trials=st.integers(1, 4)),
)


@given(rules, st.dictionaries(st.sampled_from("abcdefghijkl"), curve, min_size=1), st.randoms())
def test_the_order_of_arrival_decides_nothing(rule: EarlyStop, curves: dict[str, list[float | None]], random) -> None:  # type: ignore[no-untyped-def]
    rung = min(map(len, curves.values()))
    order = list(curves)
    random.shuffle(order)
    assert rule.stops(rung, {trial: curves[trial] for trial in order}, order) == rule.stops(rung, curves, set(curves))


@given(rules, st.lists(st.floats(0, 1), min_size=1, max_size=12, unique=True), st.integers(2, 40))
def test_at_least_as_many_go_on_as_a_plan_says(rule: EarlyStop, values: list[float], epochs: int) -> None:
    curves = {str(place): [value] * epochs for place, value in enumerate(values)}
    left = set(curves)
    for rung, fewest in rule.fewest(len(values), epochs):
        left -= rule.stops(rung, {trial: line if trial in left else line[: rung - 1] for trial, line in curves.items()}, left)
        assert len(left) >= fewest
        best = min(values) if rule.metric == "val_loss" else max(values)
        assert any(curves[trial][0] == best for trial in left), "the best is never stopped"


SWEEP = """\
version: 1
name: n
base: {{dataset: {{name: mnist}}, model: {{name: wide}}, train: {{epochs: 9}}{base}}}
parameters:
  model.name: {{values: [wide, slim]}}
  seed: {{range: [0, 9]}}
early_stop: {rule}
"""


def ending(rule: str, base: str = "") -> tuple[int, int, int, int]:
    found = make_plan(load_text(SWEEP.format(rule=rule, base=base), "f.yaml"), FakeCatalog()).ending
    assert found is not None
    return tuple(found)


def test_a_plan_says_how_much_is_trained_at_least_and_at_most() -> None:
    # Of each network 9 trials: 9 x 1 epoch, 3 x 2 more, 1 x 6 more.
    assert ending("{name: asha}") == (18, 2, 162, 2 * (9 + 6 + 6))
    # All together: 18 x 1, 6 x 2, 2 x 6.
    assert ending("{name: asha, compare: sweep}") == (18, 2, 162, 18 + 12 + 12)
    # Of each network 9: a half, rounded up, after 4 epochs, of which one after 8.
    assert ending("{name: median, grace_epochs: 4, every_epochs: 4}") == (18, 2, 162, 2 * (9 * 4 + 5 * 4 + 1))


def test_teachers_are_trained_to_their_end() -> None:
    teacher = ", distill: {teacher: {model: {name: big}, train: {epochs: 4}}}"
    assert ending("{name: asha}", teacher) == (19, 3, 166, 42 + 4)
