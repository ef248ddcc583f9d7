"""The one owner of paths: nobody else joins strings into a place inside a run folder."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunPaths:
    """Where the parts of one run lie. All paths are absolute."""

    root: Path

    @classmethod
    def at(cls, folder: str | Path) -> "RunPaths":
        return cls(Path(folder).expanduser().absolute())

    @property
    def run_file(self) -> Path:
        """`{"run_id", "name", "store_url", "created"}`; store_url is null for the SQLite file below."""
        return self.root / "run.json"

    @property
    def sweep_file(self) -> Path:
        """The sweep as it was submitted, byte for byte."""
        return self.root / "sweep.yaml"

    @property
    def overrides_file(self) -> Path:
        """The `--set` of the sweep, a JSON list in their order; not there without any."""
        return self.root / "overrides.json"

    @property
    def pool_file(self) -> Path:
        """A copy of the device pool that the sweep names."""
        return self.root / "pool.yaml"

    @property
    def inputs_file(self) -> Path:
        """The SHA-256 of each file that the sweep names, by the path that it has there, JSON; `weights` has the copies."""
        return self.root / "inputs.json"

    @property
    def environment_file(self) -> Path:
        return self.root / "environment.json"

    @property
    def sqlite_file(self) -> Path:
        return self.root / "store.sqlite"

    @property
    def log_file(self) -> Path:
        return self.root / "controller.log"

    def pack(self, pack_id: str) -> Path:
        """Checkpoints of a pack in training; removed once its trials are finished."""
        return self.root / "packs" / pack_id

    @property
    def trials(self) -> Path:
        """A folder for each trial that has finished."""
        return self.root / "trials"

    def trial(self, trial_id: str) -> Path:
        return self.trials / trial_id

    def model(self, trial_id: str) -> Path:
        """The trained parameters and batch statistics of a finished trial (Orbax)."""
        return self.trial(trial_id) / "model"

    def best_model(self, trial_id: str) -> Path:
        """The network of the epoch with the best validation accuracy."""
        return self.trial(trial_id) / "best"

    def network_file(self, trial_id: str) -> Path:
        """`{"model": ...}` of a trial whose network was made smaller: what its configuration names is the one it began with."""
        return self.trial(trial_id) / "network.json"

    def compression_file(self, trial_id: str) -> Path:
        """How a network was made smaller, as its method tells it, JSON."""
        return self.trial(trial_id) / "compression.json"

    def search(self, pack_id: str) -> Path:
        """What a method of compression has found so far; removed with the pack's checkpoints."""
        return self.pack(pack_id) / "search"

    def weights(self, sha256: str) -> Path:
        """A copy of a file that the sweep names, by its content: initial weights, maps of names, tables of costs."""
        return self.root / "weights" / sha256

    def teacher_logits(self, trial_id: str) -> Path:
        """A teacher's logits of all training images, float32 [images, classes] and their CRC-32, for its students."""
        return self.trial(trial_id) / "train_logits.f32"

    def heat_maps(self, trial_id: str) -> Path:
        """What Distill-Net has seen in a trained network, a file a class, for all trials that are made from it."""
        return self.trial(trial_id) / "heat_maps"

    def teacher_memo(self, trial_id: str, key: str) -> Path:
        """A teacher's logits of training images changed in each possible way, a file a way (`flaxcomp.train.memo`)."""
        return self.teacher_memos(trial_id) / key

    def teacher_memos(self, trial_id: str) -> Path:
        """All memos of a teacher."""
        return self.trial(trial_id) / "memo"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    def artifact(self, sha256: str, suffix: str) -> Path:
        """A file named by its content; suffix is `tflite` or `onnx`."""
        return self.artifacts / f"{sha256}.{suffix}"

    @property
    def report(self) -> Path:
        return self.root / "report"
