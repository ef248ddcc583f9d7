"""The plan of a network of inverted residual blocks (MobileNet v2, MnasNet): its layers as numbers. Needs no JAX."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from flaxcomp.errors import UserError


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
        squeezed: units in the middle of the Squeeze-and-Excitation; 0: there is none.
        residual: whether the block's input is added to its output.
    """

    kernel: int
    stride: int
    hidden: int
    squeezed: int
    out: int
    residual: bool


@dataclass(frozen=True)
class Plan:
    """A whole network.

    Attributes:
        stem: channels of the first 3x3 convolution. stem_stride: its stride.
        gate: what the Squeeze-and-Excitation scales: `hidden`, after the depthwise convolution, or `out`, the block's end.
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

    def with_widths(self, name: str, widths: tuple[int, ...]) -> "Plan":
        """The same layers with other widths, in the order of `widths()`.

        Raises:
            UserError: there are too few or too many.
        """
        wanted = len(self.widths())
        if len(widths) != wanted:
            raise UserError(f"{name} with these options has {wanted} widths (first convolution, then each block's), "
                            f"got {len(widths)}")  # fmt: skip
        rest = iter(widths)
        stem = out = next(rest)
        blocks = []
        for block in self.blocks:
            hidden = next(rest) if block.hidden else 0
            squeezed = next(rest) if block.squeezed else 0
            out = out if block.residual else next(rest)
            blocks.append(block._replace(hidden=hidden, squeezed=squeezed, out=out))
        return replace(self, stem=stem, blocks=tuple(blocks), head=next(rest, 0))


def _free(block: Block) -> Iterator[int]:
    if block.hidden:
        yield block.hidden
    if block.squeezed:
        yield block.squeezed
    if not block.residual:
        yield block.out


def make_plan(stem: int, stem_stride: int, rows: Iterable[Row], gate: str, head: int = 0) -> Plan:
    """Turn a table into a plan: an expansion of 1 has no convolution, equal ends of a block of stride 1 are added."""
    blocks, c_in = [], stem
    for row in rows:
        hidden = int(c_in * row.expansion) if row.expansion != 1 else 0
        # MnasNet's code takes the reduction of the block's input, the embedded study that of the gated output.
        squeezed = max(1, (c_in if gate == "hidden" else row.out) // row.se) if row.se else 0
        blocks.append(Block(row.kernel, row.stride, hidden, squeezed, row.out, row.stride == 1 and c_in == row.out))
        c_in = row.out
    return Plan(stem, stem_stride, tuple(blocks), gate, head)


def embedded_rows(name: str, blocks: int, width: int, expansion: float, se: int) -> list[Row]:
    """The layout for 32x32 images (Greffe 2019, 3.4.1): three sub-networks, the width doubled and the size halved between.

    Raises:
        UserError: three sub-networks cannot share the blocks equally.
    """
    each, rest = divmod(blocks, 3)
    if rest:
        raise UserError(f"{name} shares its blocks among three sub-networks: blocks must be a multiple of 3, got {blocks}")
    return [Row(3, 2 if i and not j else 1, expansion, width * 2**i, se) for i in range(3) for j in range(each)]
