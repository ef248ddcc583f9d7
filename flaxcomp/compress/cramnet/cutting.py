"""Cuts a traced program in two where little passes from one part to the other.

A program is a line of equations. At any place on it some values that depend on the images are still needed: these pass. Where
one value alone passes, everything after it is a function of that value.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Var, jaxpr_as_fun

Names = frozenset[str]


@dataclass(frozen=True)
class Line:
    """A program's equations in their order.

    Attributes:
        program: traced; its inputs are arrays of parameters and statistics, then the images.
        passing: for each place, from before the first equation to behind the last, the values that depend on the images and
            are still needed.
        used: for each equation, the inputs by name that meet there what depends on the images.
    """

    program: ClosedJaxpr
    passing: tuple[tuple[Var, ...], ...]
    used: tuple[Names, ...]

    @classmethod
    def of(cls, program: ClosedJaxpr, names: Sequence[str]) -> "Line":
        """Follow a program of which the last input is the images and the others are called `names`."""
        jaxpr = program.jaxpr
        *arrays, image = jaxpr.invars
        still: dict[Var, Names] = {variable: frozenset({name}) for variable, name in zip(arrays, names, strict=True)}
        moving, used = {image: 0}, []
        for i, equation in enumerate(jaxpr.eqns):
            inputs = list(_variables(equation.invars))
            met = frozenset[str]().union(*(still.get(variable, frozenset()) for variable in inputs))
            if any(variable in moving for variable in inputs):
                moving.update(dict.fromkeys(equation.outvars, i + 1))
                used.append(met)
            else:
                still.update(dict.fromkeys(equation.outvars, met))
                used.append(frozenset())
        last = {variable: i for i, equation in enumerate(jaxpr.eqns) for variable in _variables(equation.invars)}
        last.update({variable: len(jaxpr.eqns) for variable in _variables(jaxpr.outvars)})
        passing = [
            tuple(variable for variable, made in moving.items() if made <= place <= last.get(variable, -1))
            for place in range(len(jaxpr.eqns) + 1)
        ]
        return cls(program, tuple(passing), tuple(used))

    def parts(self) -> dict[str, set[int]]:
        """In which parts of the program each input is used, numbered from 0; between two parts one value alone passes.

        A part in which no parameter is used does not count.
        """
        found: dict[str, set[int]] = {}
        part, parameters = 0, False
        for names, after in zip(self.used, self.passing[1:], strict=True):
            for name in names:
                found.setdefault(name, set()).add(part)
            parameters |= bool(names)
            if len(after) == 1 and parameters:
                part, parameters = part + 1, False
        return found

    def cuts(self, late: Names) -> list["Cut"]:
        """Where to cut before any of the inputs `late` is used, from the last place to the first.

        Between one layer and the next the narrowest place is meant, of equal ones the last; the first place is the images.
        """
        first = next(i for i, names in enumerate(self.used) if names & late)
        starts = [i + 1 for i in range(first) if self.used[i]]
        ends = [*(start - 1 for start in starts[1:]), first]
        size = [sum(_shape(variable).size * _shape(variable).dtype.itemsize for variable in at) for at in self.passing]
        narrowest = [min(range(a, b + 1), key=lambda i: (size[i], -i)) for a, b in zip(starts, ends, strict=False) if a <= b]
        return [Cut(self, place) for place in (*reversed(narrowest), 0)]


@dataclass(frozen=True)
class Cut:
    """A program in two parts.

    Attributes:
        place: how many equations are before the cut.
    """

    line: Line
    place: int

    @property
    def passing(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """What the first part gives the second."""
        return tuple(map(_shape, self.line.passing[self.place]))

    @property
    def is_trivial(self) -> bool:
        """Whether the images themselves are all that passes."""
        return self.line.passing[self.place] == (self.line.program.jaxpr.invars[-1],)

    def early(self) -> Callable[..., list[jax.Array]]:
        """(arrays, images) -> what passes."""
        jaxpr = self.line.program.jaxpr
        return self._function(jaxpr.invars, self.line.passing[self.place], jaxpr.eqns[: self.place])

    def late(self) -> Callable[..., list[jax.Array]]:
        """(arrays, what passes) -> the program's outputs."""
        jaxpr = self.line.program.jaxpr
        passing = self.line.passing[self.place]
        moving = {variable for place in self.line.passing[: self.place + 1] for variable in place}
        before = [e for e in jaxpr.eqns[: self.place] if moving.isdisjoint(_variables(e.invars))]  # of parameters alone
        return self._function((*jaxpr.invars[:-1], *passing), jaxpr.outvars, [*before, *jaxpr.eqns[self.place :]])

    def _function(self, inputs: Sequence[Any], outputs: Sequence[Any], equations: Sequence[Any]) -> Callable[..., Any]:
        program = self.line.program
        known, unnamed = program.jaxpr, program.jaxpr.debug_info._replace(arg_names=None, result_paths=None)
        part = Jaxpr(known.constvars, list(inputs), list(outputs), list(equations), known.effects, unnamed)
        function: Callable[..., Any] = jaxpr_as_fun(ClosedJaxpr(part, program.consts))
        return function


def _shape(variable: Var) -> jax.ShapeDtypeStruct:
    value: Any = variable.aval
    return jax.ShapeDtypeStruct(value.shape, value.dtype)


def _variables(atoms: Sequence[Any]) -> Iterator[Any]:
    return (atom for atom in atoms if not isinstance(atom, Literal))
