from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxcomp.sweep.expand import Trial
from flaxcomp.sweep.plan import Pack, form_packs, make_plan
from flaxcomp.sweep.spec import Dataset, TrialConfig
from sweep_samples import FakeCatalog, load, trials_of

CONFIG = TrialConfig(dataset=Dataset(name="mnist"), model={"name": "wide"})


def trial(id_: str, signature: str) -> Trial:
    return Trial(id=id_, config=CONFIG, needs=(), role="trial", signature=signature)


def sizes(counts: dict[str, int], max_size: int, workers: int) -> list[int]:
    trials = [trial(f"{signature}{index}", signature) for signature, count in counts.items() for index in range(count)]
    return [len(pack.trial_ids) for pack in form_packs(trials, lambda _: max_size, workers)]


@pytest.mark.parametrize(
    ("counts", "max_size", "workers", "expected"),
    [
        ({"a": 32}, 32, 2, [16, 16]),
        ({"a": 32}, 32, 1, [32]),
        ({"a": 33}, 32, 1, [16, 17]),
        ({"a": 80}, 32, 2, [20, 20, 20, 20]),  # two full rounds, not one and a half
        ({"a": 3}, 32, 8, [1, 1, 1]),
        ({"a": 4}, 32, 3, [1, 1, 2]),
        ({"a": 3, "b": 3, "c": 3, "d": 3}, 32, 2, [3, 3, 3, 3]),  # all workers are busy: nothing is split
        ({"a": 32, "b": 1}, 32, 2, [16, 16, 1]),
        ({"a": 5}, 1, 2, [1, 1, 1, 1, 1]),
        ({}, 32, 2, []),
    ],
)
def test_sizes(counts: dict[str, int], max_size: int, workers: int, expected: list[int]) -> None:
    assert sizes(counts, max_size, workers) == expected


@given(
    st.lists(st.sampled_from("abc"), max_size=60),
    st.dictionaries(st.sampled_from("abc"), st.integers(1, 40)),
    st.integers(1, 8),
)
def test_packs_are_a_partition_in_order_with_even_shares(signatures: list[str], largest: dict[str, int], workers: int) -> None:
    trials = [trial(f"t{index}", signature) for index, signature in enumerate(signatures)]
    packs = form_packs(trials, lambda first: largest.get(first.signature, 32), workers)
    of = {one.id: one.signature for one in trials}
    for signature in dict.fromkeys(signatures):
        mine = [pack for pack in packs if pack.signature == signature]
        assert [id_ for pack in mine for id_ in pack.trial_ids] == [id_ for id_, other in of.items() if other == signature]
        lengths = [len(pack.trial_ids) for pack in mine]
        assert max(lengths) <= largest.get(signature, 32)
        assert max(lengths) - min(lengths) <= 1
    assert sum(len(pack.trial_ids) for pack in packs) == len(trials)
    assert len(packs) >= min(workers, len(trials))
    assert len({pack.id for pack in packs}) == len(packs)
    assert packs == form_packs(trials, lambda first: largest.get(first.signature, 32), workers)


def test_the_size_is_asked_once_a_signature_with_its_first_trial() -> None:
    asked: Counter[str] = Counter()

    def max_size(first: Trial) -> int:
        asked[first.id] += 1
        return 2

    form_packs([trial("1", "a"), trial("2", "b"), trial("3", "a")], max_size, 1)
    assert asked == {"1": 1, "2": 1}


def test_a_packs_id_depends_on_its_trials_and_its_signature() -> None:
    ids = {
        form_packs([trial(id_, signature) for id_ in members], lambda _: 9, 1)[0].id
        for members, signature in [("12", "a"), ("21", "a"), ("12", "b"), ("1", "a")]
    }
    assert len(ids) == 4
    (pack,) = form_packs([trial("x", "s")], lambda _: 9, 1)
    assert pack == Pack(pack.id, ("x",), "s")


def test_a_plan_counts_what_expansion_and_packing_make() -> None:
    body = """\
  distill: {teacher: {model: {name: big}}}
parameters:
  - model.name: {values: [wide, slim]}
    distill.temperature: {values: [1, 3, 10]}
    seed: {range: [0, 10]}
  - distill: {value: null}
    seed: {values: [0, 0]}
exclude: [distill.temperature == 3]
resources: {pack: 8}
"""
    loaded = load(body)
    plan = make_plan(loaded, FakeCatalog())
    trials = trials_of(loaded)
    assert (plan.points, plan.tally.excluded, plan.tally.repeated) == (62, 20, 1)
    assert (plan.trials, plan.dependencies) == (41, 1)
    assert plan.points == plan.trials + plan.tally.excluded + plan.tally.repeated
    assert (plan.pack_size, plan.workers) == (8, 1)
    waves = [[one for one in trials if not one.needs], [one for one in trials if one.needs]]
    assert plan.packs == sum(len(form_packs(wave, lambda _: 8, 1)) for wave in waves) == 2 + 2 * 3
    assert set(plan.groups) == {one.signature for one in trials}
    assert [group.differs for group in plan.groups.values()] == [
        {"model.name": "wide", "distill.loss": None},
        {"model.name": "big", "distill.loss": None},
        {"model.name": "wide", "distill.loss": "soft_mse"},
        {"model.name": "slim", "distill.loss": "soft_mse"},
    ]
