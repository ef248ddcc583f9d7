"""The plan of a network of inverted residual blocks (MobileNet v2, MnasNet): its layers as numbers. Needs no JAX."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from flaxcomp.models.config import a_third


class Row(NamedTuple):
    """One block as a publication's table tells it."""

    kernel: int
    stride: int
    expansion: float
    out: int
    se: int = 0  # reduction of its Squeeze-and-Excitation; 0: none


class Block(NamedTuple):
    """One block as it is built: 1x1 to `hidden`, depthwise, 1x1 to `out`.

    Attributes:
        hidden: channels after the expanding 1x1 convolution; 0: there is none, the depthwise one sees the block's input.
        se: reduction of the Squeeze-and-Excitation; 0: there is none.
        residual: whether the block's input is added to its output.
    """

    kernel: int
    stride: int
    hidden: int
    se: int
    out: int
    residual: bool


@dataclass(frozen=True)
class Plan:
    """A whole network.

    Attributes:
        stem: channels of the first 3x3 convolution. stem_stride: its stride.
        gate: what the Squeeze-and-Excitation scales: `hidden`, after the depthwise convolution, its middle the block's input
            channels / se, as in MnasNet's code; or `out`, the block's end, its middle those / se, as in the embedded study.
        head: channels of the last 1x1 convolution; 0: there is none.
    """

    stem: int
    stem_stride: int
    blocks: tuple[Block, ...]
    gate: str
    head: int = 0

    def widths(self) -> tuple[int, ...]:
        """Every free width once, in the order of the layers; blocks joined by additions share one output width."""
        inner = (width for block in self.blocks for width in _free(block))
        return (self.stem, *inner, *([self.head] if self.head else []))

    def with_widths(self, widths: tuple[int, ...]) -> "Plan":
        """The same layers with other widths, in the order of `widths()` and as many; () leaves them."""
        if not widths:
            return self
        rest = iter(widths)
        stem = out = next(rest)
        blocks = []
        for block in self.blocks:
            hidden = next(rest) if block.hidden else 0
            out = out if block.residual else next(rest)
            blocks.append(block._replace(hidden=hidden, out=out))
        return replace(self, stem=stem, blocks=tuple(blocks), head=next(rest, 0))


def _free(block: Block) -> Iterator[int]:
    if block.hidden:
        yield block.hidden
    if not block.residual:
        yield block.out


def make_plan(stem: int, stem_stride: int, rows: Iterable[Row], gate: str, head: int = 0) -> Plan:
    """Turn a table into a plan: an expansion of 1 has no convolution, equal ends of a block of stride 1 are added."""
    blocks, c_in = [], stem
    for row in rows:
        hidden = int(c_in * row.expansion) if row.expansion != 1 else 0
        blocks.append(Block(row.kernel, row.stride, hidden, row.se, row.out, row.stride == 1 and c_in == row.out))
        c_in = row.out
    return Plan(stem, stem_stride, tuple(blocks), gate, head)


def embedded_rows(name: str, blocks: int, width: int, expansion: float, se: int) -> list[Row]:
    """The layout for 32x32 images (Greffe 2019, 3.4.1): three sub-networks, the width doubled and the size halved between.

    Raises:
        UserError: three sub-networks cannot share the blocks equally.
    """
    each = a_third(name, blocks)
    return [Row(3, 2 if i and not j else 1, expansion, width * 2**i, se) for i in range(3) for j in range(each)]
