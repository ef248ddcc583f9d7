"""`flaxcomp layers`: which layer of a quantized network loses the accuracy."""

from pathlib import Path

import click

from flaxcomp.cli.output import format_option, output_option, write_rows
from flaxcomp.errors import UserError

QUANTIZERS = ("tensorflow", "ai_edge")


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("trial", metavar="TRIAL")
@click.option("--precision", type=click.Choice(("int8", "int16")), default="int8", show_default=True)
@click.option("--quantizer", type=click.Choice(QUANTIZERS), help="Default: the first that the sweep's `export` names.")
@click.option("--images", type=click.IntRange(1), default=100, show_default=True, help="Held-out images to compare on.")
@click.option("--accuracy", is_flag=True, help="Also the accuracy on them with each operator alone left in float32.")
@format_option
@output_option
def command(
    run: Path,
    trial: str,
    precision: str,
    quantizer: str | None,
    images: int,
    accuracy: bool,
    format_: str,
    output: Path | None,
) -> None:
    """Compare the quantized network of TRIAL, an id or its beginning, with the float32 one, operator by operator.

    The worst come first: those with the lowest signal-to-noise ratio. Images are held-out ones of the training set, never test
    images, so that what is learnt may choose.
    """
    from flaxcomp.cli.packages import EXPORT, TRAINING, need
    from flaxcomp.store.paths import RunPaths
    from flaxcomp.store.records import Store

    need((*TRAINING, *EXPORT), "layers")
    paths = RunPaths.at(run)
    with Store.open(paths) as store:
        found = [name for name, status in store.statuses().items() if name.startswith(trial) and status == "finished"]
        if len(found) != 1:
            what = "several begin so: " + ", ".join(sorted(found)[:5]) if found else "see `flaxcomp results`"
            raise UserError(f"TRIAL must be the id, or its beginning, of one finished trial, got {trial!r}: {what}")
        (id_,) = found
        spec, config = store.sweep().export, store.configs([id_])[id_]
    from flaxcomp.export.layer_report import report_layers

    def tell(done: int, total: int) -> None:
        click.echo(f"\r{done} of {total} operators", nl=done == total, err=True)

    report = report_layers(paths, id_, config, spec, precision, quantizer, images, tell if accuracy else None)
    columns = [name for name in report.columns if accuracy or name != "accuracy_without"]
    write_rows(report.rows, columns, format_, output)
    if format_ == "table" and output is None:
        click.echo(report.summary)
