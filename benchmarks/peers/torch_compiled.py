"""The peer on a GPU: `torch.compile`, channels last, bfloat16 by autocast, data on the device, as PyTorch's guides advise."""

import time
from typing import Any

import numpy as np
import torch
from peer_job import Job, Point, given_folder, read_arrays, read_job, write_result
from torch.nn import functional
from torch_nets import build, count
from torch_training import labels_of, make_optimizer


class Data:
    """uint8 images [n, c, h, w] and labels on the device."""

    def __init__(self, job: Job, arrays: dict[str, Any], device: torch.device) -> None:
        def images(name: str) -> torch.Tensor:
            return torch.from_numpy(np.array(arrays[name]).transpose(0, 3, 1, 2).copy()).to(device)

        self.images, self.labels = images("train_images"), labels_of(arrays["train_labels"]).to(device)
        self.test_images, self.test_labels = images("test_images"), labels_of(arrays["test_labels"]).to(device)
        self.train = labels_of(arrays["train_index"]).to(device)
        self.mean, self.std = (torch.tensor(each, device=device).view(1, -1, 1, 1) for each in (job.mean, job.std))
        self.size, self.device = job.size, device

    def inputs(self, images: torch.Tensor) -> torch.Tensor:
        """Resized and normalised, float32, channels last."""
        x = images.float() / 255
        if self.size is not None:
            x = functional.interpolate(x, (self.size, self.size), mode="bilinear", align_corners=False)
        return ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)


def train(job: Job, point: Point, data: Data) -> dict[str, Any]:
    torch.manual_seed(int(point["seed"]))
    plain = build(job.model, job.batch_norm_momentum).to(data.device, memory_format=torch.channels_last)
    model: Any = torch.compile(plain)
    optimizer, steps, seconds = make_optimizer(job, plain, point["learning_rate"]), 0, 0.0
    for _ in range(job.epochs):
        plain.train()
        order = data.train[torch.randperm(len(data.train), device=data.device)]
        began = time.perf_counter()
        for i in range(len(order) // job.batch_size):
            batch = order[i * job.batch_size : (i + 1) * job.batch_size]
            optimizer.zero_grad()
            with torch.autocast(data.device.type, torch.bfloat16):
                loss = functional.cross_entropy(model(data.inputs(data.images[batch])), data.labels[batch])
            loss.backward()
            optimizer.step()
            steps += 1
            if steps == 1:  # it is compiled now
                synchronize(data.device)
                began = time.perf_counter()
        synchronize(data.device)
        seconds += time.perf_counter() - began
    done = {"point": point, "params": count(plain), "steps": steps, "test_accuracy": accuracy(plain, data)}
    return {**done, "train_seconds": seconds * steps / max(1, steps - 1)}


@torch.no_grad()
def accuracy(model: torch.nn.Module, data: Data) -> float:
    model.eval()
    right = [model(data.inputs(data.test_images[i : i + 500])).argmax(1) == data.test_labels[i : i + 500]
             for i in range(0, len(data.test_labels), 500)]  # fmt: skip
    return float(torch.cat(right).double().mean())


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    folder = given_folder()
    job = read_job(folder)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    data = Data(job, read_arrays(folder), torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    trials = [train(job, point, data) for point in job.points]
    seconds = sum(trial.pop("train_seconds") for trial in trials)
    write_result(folder, job, trials, train_seconds=seconds)


if __name__ == "__main__":
    main()
