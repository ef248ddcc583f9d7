"""`flaxcomp report`: the run as a page, pictures and Markdown."""

import webbrowser
from pathlib import Path

import click

from flaxcomp.errors import UserError
from flaxcomp.store.paths import RunPaths
from flaxcomp.store.records import Store


@click.command(name="report")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Where to write.  [default: RUN/report]")
@click.option(
    "--format", "formats", default="html,png,md", show_default=True, help="What to write; md writes the PNGs it links to."
)
@click.option("--metrics", metavar="NAME:max|min,...", help="What to optimise.  [default: the metrics of the sweep]")
@click.option("--open", "show", is_flag=True, help="Open the page in the browser.")
def command(run: Path, out: Path | None, formats: str, metrics: str | None, show: bool) -> None:
    """Write the report of RUN, which may still be running.

    index.html is one file that works from disk, without a network. Fronts and winners are chosen on the validation split;
    emulated device figures are marked and never ranked with real ones.
    """
    from flaxcomp.cli.commands.front import known_figures, parse_metrics
    from flaxcomp.report.write import write_report

    paths = RunPaths.at(run)
    with Store.open(paths) as store:
        frame = store.frame()
    goals = () if metrics is None else parse_metrics(metrics, known_figures(frame))
    wanted = [part.strip() for part in formats.split(",") if part.strip()]
    folder = out or paths.report
    try:
        written = write_report(frame, folder, wanted, goals)
    except OSError as error:
        raise UserError(
            f"the report must go to a folder that can be written, got {folder}: {error.strerror}; see --out"
        ) from None
    click.echo(str(written))
    if show:
        webbrowser.open(written.absolute().as_uri())
