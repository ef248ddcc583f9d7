"""The peer: Keras 3 on TensorFlow, `compile` and `fit` for one trial after the other, on all cores, as its guide has it."""

import os
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers, ops
from peer_job import Job, Point, given_folder, read_arrays, read_job, scaled, write_result


def build(job: Job) -> keras.Model:
    if job.model != "simplenet_v1":
        raise SystemExit(f"the Keras peer has simplenet_v1, not {job.model}")
    conv: dict[str, Any] = {"padding": "same", "activation": "relu", "kernel_initializer": "lecun_normal"}
    return keras.Sequential([
        keras.Input((28, 28, 1)),
        layers.Conv2D(3, 5, **conv), layers.MaxPooling2D(),
        layers.Conv2D(6, 5, **conv), layers.MaxPooling2D(),
        layers.Flatten(), layers.Dense(10, kernel_initializer="lecun_normal"),
    ])  # fmt: skip


def make_loss(job: Job, point: Point) -> Any:
    if not job.distills:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    temperature = point["temperature"]
    return lambda teacher, logits: ops.sum((ops.softmax(logits / temperature) - ops.softmax(teacher / temperature)) ** 2, -1)


def main() -> None:
    folder = given_folder()
    job, arrays = read_job(folder), read_arrays(folder)
    images, labels = scaled(arrays["train_images"], job), np.asarray(arrays["train_labels"])
    targets = np.asarray(arrays["teacher_logits"]) if job.distills else labels
    train, validation = np.asarray(arrays["train_index"]), np.asarray(arrays["validation_index"])
    train = train[: len(train) // job.batch_size * job.batch_size]  # `fit` would take the incomplete batch as well
    test = scaled(arrays["test_images"], job)

    def accuracy(model: keras.Model, images: Any, labels: Any) -> float:
        return float((model.predict(images, batch_size=500, verbose=0).argmax(1) == labels).mean())

    trials = []
    for point in job.points:
        keras.backend.clear_session()
        keras.utils.set_random_seed(int(point["seed"]))
        model = build(job)
        if job.optimizer != "adam":
            raise SystemExit(f"the Keras peer trains with adam, not {job.optimizer}")
        model.compile(keras.optimizers.Adam(point["learning_rate"], epsilon=1e-8), make_loss(job, point))
        held_out = images[validation], labels[validation]
        validate = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_, m=model, h=held_out: accuracy(m, *h))
        model.fit(images[train], targets[train], job.batch_size, job.epochs, verbose=0, callbacks=[validate])
        params = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
        done = {"point": point, "params": params, "steps": int(model.optimizer.iterations.numpy())}
        trials.append({**done, "test_accuracy": accuracy(model, test, np.asarray(arrays["test_labels"]))})
    write_result(folder, job, trials)


if __name__ == "__main__":
    main()
