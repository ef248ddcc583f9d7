"""Which columns tell rows apart."""

from flaxcomp.sweep.columns import differing

DENSE = {"model.name": "net", "seed": 0, "prune.ratio": None, "prune.criterion": None, "distill.temperature": 1.0}
PRUNED = DENSE | {"prune.ratio": 0.5, "prune.criterion": "l2"}


def test_a_section_that_not_all_rows_have_is_told_by_one_column() -> None:
    assert differing([DENSE, PRUNED], list(DENSE)) == ["prune.ratio"]
    assert differing([DENSE, PRUNED], list(DENSE), told=("distill",)) == []


def test_its_other_columns_count_among_the_rows_that_have_it() -> None:
    rows = [DENSE, PRUNED, PRUNED | {"prune.criterion": "fisher"}]
    assert differing(rows, list(DENSE)) == ["prune.ratio", "prune.criterion"]
    assert differing(rows[1:], list(DENSE)) == ["prune.criterion"]


def test_a_section_is_told_by_what_says_most_of_it() -> None:
    dense: dict[str, object] = {"model.name": "net"}
    widths = dense | {"cramnet.then": "fine_tune", "cramnet.replace": {}, "cramnet.widths": [4]}
    classes = dense | {"subset.class_seed": 0, "subset.classes": [1]}
    assert differing([dense, widths], list(widths)) == ["cramnet.widths"]
    assert differing([dense, classes], list(classes)) == ["subset.classes"]


def test_columns_of_all_rows_differ_as_they_do() -> None:
    assert differing([DENSE, DENSE | {"seed": 1, "distill.temperature": 3.0}], list(DENSE)) == ["seed", "distill.temperature"]


def test_ids_of_what_networks_were_made_from_are_not_among_them() -> None:
    assert differing([DENSE | {"source": "a"}, PRUNED | {"source": "b"}], ["source", *DENSE]) == ["prune.ratio"]
