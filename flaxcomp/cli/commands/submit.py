"""`flaxcomp submit`: hand a sweep to a running cluster and come back at once."""

from pathlib import Path

import click

from flaxcomp.errors import MissingPackageError, UserError


@click.command()
@click.argument("sweep", type=click.Path(path_type=Path))
@click.option(
    "--to", "target_file", type=click.Path(path_type=Path), required=True, help="A launch file, such as launch/ray.yaml."
)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="The run folder.  [default: the launch file's runs/NAME]"
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE[,VALUE...]", help="Change the sweep; may be given again.")
@click.option("--yes", is_flag=True, help="Expand a grid of any size.")
def command(sweep: Path, target_file: Path, out: Path | None, overrides: tuple[str, ...], yes: bool) -> None:
    """Hand SWEEP to a running Ray cluster through its Jobs API.

    The sweep is checked here first. The cluster does what `flaxcomp run` does: train, export, measure and report as the sweep
    says; devices are reached from its head. `flaxcomp status` and `results` follow it in the run folder, which the cluster and
    this machine must share.
    """
    import msgspec

    from flaxcomp.cli.catalog import RoomCatalog
    from flaxcomp.cli.packages import need
    from flaxcomp.cli.pools import pool_file
    from flaxcomp.store.paths import RunPaths
    from flaxcomp.store.records import Store
    from flaxcomp.sweep.expand import check_size, expand
    from flaxcomp.sweep.load import load_sweep

    loaded = load_sweep(sweep, overrides)
    need(("ray",), "submit")
    if not yes:
        check_size(loaded)
    catalog = RoomCatalog(beside=sweep.parent)
    trials = list(expand(loaded, catalog))
    pool = pool_file(loaded, sweep)
    files = {_inside(named, "train.init_from"): found for named, found in catalog.files.items()}
    if pool is not None and loaded.sweep.benchmark is not None:
        files[_inside(loaded.sweep.benchmark.pool, "benchmark.pool")] = pool
    try:
        from flaxcomp.schedule.controller import acquire
        from flaxcomp.schedule.run_folder import check_writable
        from flaxcomp.schedule.submit import connect, read_target, submit

        target = read_target(target_file)
        paths = RunPaths.at(out or Path(target.runs) / loaded.sweep.name)
        check_writable(paths)
        client = connect(target)  # first: what nobody will run leaves no run folder
        sweep_json = msgspec.json.encode(loaded.sweep)
        with Store.create(
            paths, name=loaded.sweep.name, sweep_text=loaded.text, sweep_json=sweep_json, overrides=overrides, url=target.store
        ) as store:
            lease = acquire(store)
            try:
                if loaded.sweep.method != "optuna":  # whose trials are known when it runs
                    store.add_trials(lease, trials)  # so that `status` knows them before the cluster has begun
            finally:
                store.release(lease)
        job = submit(client, target, loaded.text, paths.root, overrides, files, yes=yes)
    except ModuleNotFoundError as error:
        raise MissingPackageError(f"submit needs the package {error.name}: pip install 'flaxcomp[full]'") from None
    click.echo(f"{len(trials)} trials handed to {target.jobs} as job {job}\nFollow them: flaxcomp status {paths.root}")


def _inside(path: str, key: str) -> str:
    """A path in the sweep within the job's folder.

    Raises:
        UserError: it leads out of a folder, so that it would not be found there.
    """
    if Path(path).expanduser().is_absolute() or ".." in Path(path).parts:
        raise UserError(f"{key} must be a relative path without `..` for a submitted sweep, got {path!r}")
    return path
