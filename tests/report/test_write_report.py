"""The report as files: whole, durable, self-contained, quick."""

import re
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest

from flaxcomp import durable
from flaxcomp.errors import UserError
from flaxcomp.report import write
from flaxcomp.report.page import page
from flaxcomp.report.write import write_report
from flaxcomp.store.frame import RunFrame
from flaxcomp.sweep.spec import Metric
from synthetic_runs import EMULATED, REAL, study

SMALL = study(seeds=2, temperatures=(None, 1.0, 3.0), exported=4)
TINY = study(
    models=("simplenet_v1", "simplenet_v2"), seeds=1, temperatures=(1.0,), settings=(), exported=0, failed=0, epoch_count=2
)
NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
CHARTS = {
    "confusion", "f_against_comprate", "f_against_temperature", "front", "latency", "learning_curves", "precision_ladder",
    "runs",
}  # fmt: skip


class Tags(HTMLParser):
    """Every attribute of a page, and its text outside scripts."""

    def __init__(self, text):
        super().__init__()
        self.attributes, self.text, self._open = [], "", [""]
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self._open.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        self._open.append("")

    def handle_data(self, data):
        if self._open[-1] not in ("script", "style"):
            self.text += data


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weird ' ü & folder") / "report"
    assert write_report(SMALL, folder, now=NOW) == folder / "index.html"
    return folder


def test_the_report_is_a_page_markdown_and_pictures(report):
    assert {path.name for path in report.iterdir()} == {"index.html", "report.md", *(f"{name}.png" for name in CHARTS)}
    assert all((report / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in CHARTS)


def test_the_page_fetches_nothing(report):
    text = (report / "index.html").read_text(encoding="utf-8")
    tags = Tags(text)
    policy = [value for tag, name, value in tags.attributes if tag == "meta" and "default-src" in value]
    assert policy[0].startswith("default-src 'none'")
    assert "connect-src" not in policy[0]
    loads = [value for _, name, value in tags.attributes if name in ("src", "href", "srcset", "action", "data")]
    assert loads
    assert all(value.startswith(("#", "data:")) for value in loads)
    assert not re.search(r"@import|url\(", text[: text.index("</style>")])


def test_the_page_says_what_the_run_is(report):
    text = Tags((report / "index.html").read_text(encoding="utf-8")).text
    for expected in ("simplenet-temperature", "2026-01-02 03:04 UTC", "28 finished", "3 failed", "more is better"):
        assert expected in text
    assert "The figures of some devices are EMULATED (board0)" in text


def test_names_from_a_run_are_no_markup():
    failure = SMALL.failures[0] | {"error": "</script><img src=x onerror=alert(1)>"}
    frame = replace(SMALL, name="<script>alert(1)</script>", constraints=("params <= 5000",), failures=[failure])
    drawn = write.panels.draw_all(frame)
    text = page(write.gather(frame, NOW), drawn, "")
    assert "<script>alert" not in text
    assert "<img" not in text
    assert text.count("</script>") == 3
    assert "params &lt;= 5000" in text


def test_the_markdown_links_pictures_that_exist(report):
    text = (report / "report.md").read_text(encoding="utf-8")
    links = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert {link.removesuffix(".png") for link in links} == CHARTS
    assert all((report / link).exists() for link in links)
    assert "> **Emulated.** The figures of some devices are EMULATED (board0)" in text
    assert "| Trial | Configuration |" in text


def test_a_run_without_emulated_devices_has_no_notice(tmp_path):
    write_report(study(seeds=1, settings=(REAL,)), tmp_path, formats=("html",))
    assert "EMULATED" not in Tags((tmp_path / "index.html").read_text(encoding="utf-8")).text


def test_a_tile_never_prefers_an_emulated_device(tmp_path):
    metrics = (Metric(name="val_accuracy", goal="maximize"), Metric(name="latency_ms", goal="minimize"))
    fast = replace(SMALL, metrics=metrics, measurements=[
        row | {"latency_ms": row["latency_ms"] / (1000 if row["emulated"] else 1)} for row in SMALL.measurements
    ])  # fmt: skip
    tiles = {tile.label: tile.figure for tile in write.gather(fast, NOW).tiles}
    real = min(row["latency_ms"] for row in SMALL.measurements if not row["emulated"])
    assert tiles["Lowest latency"] == f"{real:.3f} ms"
    emulated = replace(fast, measurements=[row for row in fast.measurements if row["emulated"]])
    assert "Lowest latency (emulated)" in {tile.label for tile in write.gather(emulated, NOW).tiles}


def test_only_the_wanted_formats_are_written(tmp_path):
    assert write_report(TINY, tmp_path / "a", formats=("html",)) == tmp_path / "a" / "index.html"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["index.html"]
    assert write_report(TINY, tmp_path / "b", formats=("png",)) == tmp_path / "b"
    assert {path.suffix for path in (tmp_path / "b").iterdir()} == {".png"}
    assert write_report(TINY, tmp_path / "c", formats=("md",)) == tmp_path / "c" / "report.md"
    assert {path.suffix for path in (tmp_path / "c").iterdir()} == {".md", ".png"}


def test_unknown_formats_are_refused(tmp_path):
    with pytest.raises(UserError, match="Did you mean 'html'"):
        write_report(SMALL, tmp_path, formats=("htm",))
    with pytest.raises(UserError, match="written as html, png, md"):
        write_report(SMALL, tmp_path, formats=())
    assert list(tmp_path.iterdir()) == []


def test_other_metrics_can_be_asked_for(tmp_path):
    metrics = (Metric(name="test_f1", goal="maximize"), Metric(name="size_bytes", goal="minimize"))
    write_report(SMALL, tmp_path, formats=("html",), metrics=metrics)
    text = Tags((tmp_path / "index.html").read_text(encoding="utf-8")).text
    assert "The front of test F (high) and file size (low)" in text


@pytest.mark.parametrize("trials", [[], [{"trial": "a", "role": "trial", "status": "running", "seed": 0}]])
def test_a_run_that_has_just_begun_has_a_report(tmp_path, trials):
    path = write_report(RunFrame("new", SMALL.metrics, trials=trials), tmp_path)
    assert "nothing to draw" in path.read_text(encoding="utf-8")
    assert {path.name for path in tmp_path.iterdir()} == {"index.html", "report.md"}


def test_pictures_of_panels_that_are_gone_go(tmp_path):
    write_report(TINY, tmp_path, formats=("png",))
    before = {path.stem for path in tmp_path.iterdir()}
    write_report(replace(TINY, epochs=[]), tmp_path, formats=("png",))
    assert before - {path.stem for path in tmp_path.iterdir()} == {"learning_curves"}


def test_an_interrupted_write_leaves_the_old_report(tmp_path, monkeypatch):
    write_report(TINY, tmp_path, formats=("html",))
    before = (tmp_path / "index.html").read_bytes()
    monkeypatch.setattr(durable.os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_report(replace(TINY, name="other"), tmp_path, formats=("html",))
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]
    assert (tmp_path / "index.html").read_bytes() == before


def test_five_hundred_trials_are_written_in_seconds(tmp_path):
    frame = study()
    assert len(frame.trials) == 501
    started = time.process_time()
    write_report(frame, tmp_path)
    assert time.process_time() - started < 15  # about 3 s of an idle core, more where cores are shared
    assert (tmp_path / "index.html").stat().st_size < 2_000_000


def test_the_largest_page_stays_below_six_megabytes(tmp_path):
    """Every file of 500 trials measured on two devices."""
    write_report(study(exported=500, settings=(REAL, EMULATED)), tmp_path, formats=("html",))
    assert (tmp_path / "index.html").stat().st_size < 6_000_000


def test_reading_a_run_needs_nothing_heavy():
    code = (
        "import sys, flaxcomp.report.write, flaxcomp.report.panels as p; [p.load(n) for n in p.names()];"
        "print([n for n in ('jax', 'flax', 'ray', 'tensorflow', 'pandas', 'vl_convert', 'sqlalchemy') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
