"""What the layers of a network cost, and the network, for models that need not be a part of another."""

import math

from flax import nnx

from flaxcomp.compress.cost_table import Table
from flaxcomp.compress.prune.follow import leaves_of
from flaxcomp.models.config import Shape
from flaxcomp.models.counting import Product, count_network, products


def layer_costs(network: nnx.Module, shape: Shape, cost: str, table: Table | None) -> dict[str, float]:
    """What each layer costs, by the path of its kernel.

    Args:
        network: in eval mode; shapes are enough.
        shape: of what it sees.
        cost: params, macs, or latency in ms by the table.

    Raises:
        UserError: the table has no such layer.
    """
    found: dict[str, float] = {}
    shapes = {path: leaf.shape for path, leaf in leaves_of(network, nnx.Param).items()}
    for product in products(network, shape):
        if product.kernel is None:
            continue
        if cost == "params":  # once, however often it is used
            found[product.kernel] = math.prod(shapes[product.kernel])
        else:
            found[product.kernel] = found.get(product.kernel, 0.0) + _price(product, table)
    return found


def network_cost(network: nnx.Module, shape: Shape, cost: str, table: Table | None) -> float:
    """What the whole network costs; of `params` biases and batch norms are a part.

    Raises:
        UserError: the table has no such layer.
    """
    if cost == "params":
        return count_network(network, shape).trainable_params
    return sum(_price(product, table) for product in products(network, shape))


def _price(product: Product, table: Table | None) -> float:
    return product.macs if table is None else table.latency_ms(product)
