"""The peer: Ray Tune with one Flax trial a process, one step a dispatch. Arguments: trials, epochs. Prints the accuracies.

The same work as our side: Adam at two learning rates, batch 128, the same 54,000 training images, validation and test.
"""

import json
import sys
from pathlib import Path
from typing import Any

import ray
from ray import tune


def train(config: dict[str, Any]) -> None:
    import jax.numpy as jnp
    import numpy as np
    import optax
    from flax import nnx

    from flaxcomp.data.arrays import load, split_validation

    arrays = load("mnist")
    train_index, validation_index = split_validation(len(arrays.train_labels), 0.1, 0)
    images = (arrays.train_images / 255.0).astype(np.float32)
    labels = arrays.train_labels
    test_images, test_labels = (arrays.test_images / 255.0).astype(np.float32), arrays.test_labels

    class SimpLeNet(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.conv1 = nnx.Conv(1, 3, (5, 5), rngs=rngs)
            self.conv2 = nnx.Conv(3, 6, (5, 5), rngs=rngs)
            self.dense = nnx.Linear(294, 10, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            x = nnx.max_pool(nnx.relu(self.conv1(x)), (2, 2), (2, 2))
            x = nnx.max_pool(nnx.relu(self.conv2(x)), (2, 2), (2, 2))
            return self.dense(x.reshape(x.shape[0], -1))

    model = SimpLeNet(nnx.Rngs(config["seed"]))
    optimizer = nnx.Optimizer(model, optax.adam(config["learning_rate"]), wrt=nnx.Param)

    @nnx.jit
    def step(model: Any, optimizer: Any, x: Any, y: Any) -> Any:
        def loss(m: Any) -> Any:
            return optax.softmax_cross_entropy_with_integer_labels(m(x), y).mean()

        value, grads = nnx.value_and_grad(loss)(model)
        optimizer.update(model, grads)
        return value

    @nnx.jit
    def predict(model: Any, x: Any) -> Any:
        return model(x).argmax(-1)

    rng = np.random.default_rng(config["seed"])
    for _ in range(config["epochs"]):
        order = rng.permutation(train_index)
        for i in range(len(order) // 128):
            batch = order[i * 128 : (i + 1) * 128]
            step(model, optimizer, jnp.asarray(images[batch]), jnp.asarray(labels[batch]))
        validation = float((np.asarray(predict(model, images[validation_index])) == labels[validation_index]).mean())
        test = float((np.asarray(predict(model, test_images)) == test_labels).mean())
        tune.report({"val_accuracy": validation, "test_accuracy": test})


def main() -> None:
    trials, epochs = int(sys.argv[1]), int(sys.argv[2])
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="error")
    space = {
        "learning_rate": tune.grid_search([1e-3, 2e-3]),
        "seed": tune.grid_search(list(range(trials // 2))),
        "epochs": epochs,
    }
    run_config = tune.RunConfig(verbose=0, storage_path=str(Path.cwd() / "ray_results"))
    tuner = tune.Tuner(tune.with_resources(train, {"cpu": 1}), param_space=space, run_config=run_config)
    results = tuner.fit()
    print(json.dumps([result.metrics["test_accuracy"] for result in results]))


if __name__ == "__main__":
    main()
