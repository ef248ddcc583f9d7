"""The peer: Optuna over PyTorch in processes that share a journal, one a core, as its guide to parallel studies has it.

Every point of the grid is enqueued, so that each is tried once (`GridSampler` may repeat some when processes share it).
"""

import multiprocessing
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from peer_job import given_folder, read_arrays, read_job, write_result

STUDY = "grid"


def storage(folder: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(folder / "journal.log")))


def work(folder: Path, trials: int) -> None:
    """Try so many of the enqueued points."""
    import torch
    from torch_training import Data, train

    torch.set_num_threads(1)  # a core each
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    job = read_job(folder)
    data = Data(job, read_arrays(folder))
    names = sorted(job.points[0])

    def objective(trial: optuna.Trial) -> float:
        choices = {name: sorted({point[name] for point in job.points}) for name in names}
        point = {name: trial.suggest_categorical(name, choices[name]) for name in names}
        epochs = iter(range(job.epochs))
        done = train(job, point, data, lambda metrics: trial.report(metrics["val_accuracy"], next(epochs)))
        trial.set_user_attr("done", done)
        return done["test_accuracy"]

    optuna.load_study(study_name=STUDY, storage=storage(folder)).optimize(objective, n_trials=trials)


def main() -> None:
    folder = given_folder()
    job = read_job(folder)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(study_name=STUDY, storage=storage(folder), direction="maximize")
    for point in job.points:
        study.enqueue_trial(point)
    shares = [len(job.points[i :: job.processes]) for i in range(job.processes)]
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=(folder, share)) for share in shares if share]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        if process.exitcode:
            raise SystemExit(f"a process ended with {process.exitcode}")
    write_result(folder, job, [trial.user_attrs["done"] for trial in study.get_trials(deepcopy=False)])


if __name__ == "__main__":
    main()
