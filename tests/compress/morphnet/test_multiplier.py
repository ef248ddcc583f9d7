"""The width multiplier, worked by hand."""

import pytest

from flaxcomp.compress.morphnet.multiplier import Widened, Widths, scaled, widened
from flaxcomp.errors import UserError


def product(widths: Widths) -> float:
    """Of two layers: 3 inputs, a, b channels."""
    a, b = widths
    return 3 * a + a * b


def test_halves_round_up_and_one_step_stays() -> None:
    assert scaled((5, 4, 3), (1, 1, 1), 500) == (3, 2, 2)
    assert scaled((5, 4, 3), (1, 1, 1), 1) == (1, 1, 1)
    assert scaled((8, 12), (4, 4), 1000) == (8, 12)
    assert scaled((8, 12), (4, 4), 749) == (4, 8)  # 5.99 is nearer to 4, 8.99 to 8
    assert scaled((8, 12), (4, 4), 500) == (4, 8)  # 6 of 12 is a half of a step: up


def test_down() -> None:
    """Widths 10 and 20 cost 230. At most 100: 6 and 13 cost 96; 6.5 / 10 = 0.65 makes 7 and 13 (112), so all below that."""
    assert widened((10, 20), (1, 1), product, 100) == Widened(0.649, (6, 13), 96)


def test_up() -> None:
    """At most 1000: 21 and 43 cost 966, and 21.5 / 10 = 2.15 makes 22 and 43 (1012)."""
    assert widened((10, 20), (1, 1), product, 1000) == Widened(2.149, (21, 43), 966)


def test_the_cost_itself_is_within_the_target() -> None:
    """All of it may be used up: 10 and 20 cost 230 exactly, 20.5 / 20 = 1.025 makes 21 (240)."""
    assert widened((10, 20), (1, 1), product, 230) == Widened(1.024, (10, 20), 230)


def test_steps_are_kept() -> None:
    """8 and 20 cost 184, more than 183; 18 / 20 = 0.9 makes 20 of 20, so all below that: 8 and 16."""
    assert widened((8, 20), (4, 4), product, 183) == Widened(0.899, (8, 16), 152)


def test_widths_that_the_model_refuses_are_rounded_up() -> None:
    """A model that takes even widths only."""

    def cost(widths: Widths) -> float:
        if any(width % 2 for width in widths):
            raise UserError("must be even")
        return product(widths)

    found = widened((10, 20), (1, 1), cost, 100)
    assert found == Widened(0.624, (6, 12), 90)


def test_a_table_without_wider_layers_is_a_limit() -> None:
    def cost(widths: Widths) -> float:
        if max(widths) > 30:
            raise UserError("no entry for a wider layer")
        return product(widths)

    assert widened((10, 20), (1, 1), cost, 1e9).widths == (15, 30)


def test_even_the_narrowest_is_too_much() -> None:
    with pytest.raises(UserError, match=r"the narrowest network costs 4, but 3 are all that it may cost"):
        widened((10, 20), (1, 1), product, 3)
