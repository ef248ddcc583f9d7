"""One training as PyTorch's own guides write it, on one core; batches are cut from tensors in memory, faster than a loader."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from peer_job import Job, Point, scaled
from torch.nn import functional
from torch_nets import build, count


def tensor(images: Any, job: Job) -> torch.Tensor:
    return torch.from_numpy(scaled(images, job).transpose(0, 3, 1, 2).copy())


def labels_of(labels: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(labels, np.int64))


class Data:
    """The arrays as tensors."""

    def __init__(self, job: Job, arrays: dict[str, Any]) -> None:
        self.images, self.labels = tensor(arrays["train_images"], job), labels_of(arrays["train_labels"])
        self.teacher = torch.from_numpy(np.array(arrays["teacher_logits"])) if job.distills else None
        self.train, validation = labels_of(arrays["train_index"]), labels_of(arrays["validation_index"])
        self.validation = self.images[validation], self.labels[validation]
        self.test = tensor(arrays["test_images"], job), labels_of(arrays["test_labels"])


def make_optimizer(job: Job, model: torch.nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    if job.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), learning_rate)
    options = {"momentum": job.momentum, "nesterov": True, "weight_decay": job.weight_decay}
    return torch.optim.SGD(model.parameters(), learning_rate, **options)


def soft_loss(logits: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    return ((functional.softmax(logits / temperature, 1) - functional.softmax(teacher / temperature, 1)) ** 2).sum(1).mean()


@torch.no_grad()
def accuracy(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    right = [model(images[i : i + 500]).argmax(1) == labels[i : i + 500] for i in range(0, len(images), 500)]
    return float(torch.cat(right).double().mean())


def train(job: Job, point: Point, data: Data, report: Callable[[dict[str, float]], None]) -> dict[str, Any]:
    """Train one trial; `report` is told of every epoch. Returns what `peer_job.write_result` takes."""
    torch.manual_seed(int(point["seed"]))
    model, steps = build(job.model, job.batch_norm_momentum), 0
    optimizer = make_optimizer(job, model, point["learning_rate"])
    for _ in range(job.epochs):
        model.train()
        order = data.train[torch.randperm(len(data.train))]
        for i in range(len(order) // job.batch_size):
            batch = order[i * job.batch_size : (i + 1) * job.batch_size]
            optimizer.zero_grad()
            logits = model(data.images[batch])
            if data.teacher is None:
                loss = functional.cross_entropy(logits, data.labels[batch])
            else:
                loss = soft_loss(logits, data.teacher[batch], point["temperature"])
            loss.backward()
            optimizer.step()
            steps += 1
        model.eval()
        report({"val_accuracy": accuracy(model, *data.validation)})
    return {"point": point, "params": count(model), "steps": steps, "test_accuracy": accuracy(model, *data.test)}
