"""Ids, signatures and packs of one sweep with a bit of everything, as they were when they were recorded.

They may not change: finished trials would be trained again, and packs with checkpoints would not be found.
"""

import hashlib

from flaxcomp.cli.catalog import RoomCatalog
from flaxcomp.sweep.expand import Tally, expand
from flaxcomp.sweep.load import load_text
from flaxcomp.sweep.plan import form_packs, make_plan, max_pack

SWEEP = """\
version: 1
name: recorded
base:
  dataset: {name: mnist}
  model: {name: simplenet_v1}
  train: {epochs: 3, batch_size: 64, optimizer: {name: adam, weight_decay: 1e-4}}
teachers:
  large: {model: {name: simplenet_lm}, train: {epochs: 5}}
  assistant: {model: {name: simplenet_v5}, distill: {teacher: large, temperature: 4}, seed: 3}
parameters:
  - model.name: {values: [simplenet_v1, simplenet_v5]}
    distill: {values: [null, {teacher: large}, {teacher: assistant, loss: hinton}, {teacher: [large, assistant]}]}
    distill.temperature: {values: [1, 3.0, 10]}
    seed: {range: [0, 4]}
  - train.optimizer.learning_rate: {values: [1e-3, 1e-2]}
    train.augment: {values: [{}, {pad: 2, pad_mode: constant}]}
    distill: {value: {teacher: {model: {name: simplenet_v2}, train: {epochs: 1}}}}
    prune: {values: [null, {ratio: 0.5, criterion: l1}]}
    quantize: {values: [null, {epochs: 1}]}
  - train:
      value:
        phases: [{epochs: 1, train: last}, {epochs: 2, optimizer: {learning_rate: 1e-4}}]
        init_from: {trial: large}
    model.name: {value: simplenet_lm}
    dataset.train_limit: {values: [null, 1000]}
exclude: ["distill.temperature == 10 and seed > 1"]
"""


def digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def test_ids_signatures_and_packs_are_the_recorded_ones() -> None:
    tally = Tally()
    trials = list(expand(load_text(SWEEP, "s.yaml"), RoomCatalog(planning=True), tally))
    assert (len(trials), tally) == (90, Tally(excluded=12, repeated=16))
    assert (trials[0].id, trials[0].signature) == ("cf680e9817856267", "13a5b1c0d8dc46f8")
    assert (trials[-1].id, trials[-1].signature) == ("f10e9d26cb555e0e", "f5a9e05baac98942")
    assert digest([f"{t.id} {t.signature} {t.role} {' '.join(t.needs)}" for t in trials]) == "bc40ebb8fb50d309"
    packs = form_packs(trials, lambda trial: max_pack(trial.config, 5), 2)
    assert digest([pack.id for pack in packs]) == "476a17305d5ce109"


def test_the_plan_is_the_recorded_one() -> None:
    plan = make_plan(load_text(SWEEP, "s.yaml"), RoomCatalog(planning=True))
    assert (plan.trials, plan.dependencies, plan.packs, plan.unshared, len(plan.groups)) == (86, 4, 26, 220, 20)
    assert plan.chains == {
        ("simplenet_lm", "simplenet_v1"): 10,
        ("simplenet_lm", "simplenet_v5"): 10,
        ("simplenet_v2", "simplenet_v1"): 4,
        ("simplenet_lm", "simplenet_lm"): 2,
        ("simplenet_lm", "simplenet_v5", "simplenet_v1"): 10,
        ("(simplenet_lm > simplenet_v5) + simplenet_lm", "simplenet_v1"): 10,
        ("simplenet_lm", "simplenet_v5", "simplenet_v5"): 10,
        ("(simplenet_lm > simplenet_v5) + simplenet_lm", "simplenet_v5"): 10,
        ("simplenet_v2", "simplenet_v1", "simplenet_v1 quantize"): 4,
        ("simplenet_v2", "simplenet_v1", "simplenet_v1 prune"): 4,
        ("simplenet_v2", "simplenet_v1", "simplenet_v1 prune", "simplenet_v1 quantize"): 4,
    }
