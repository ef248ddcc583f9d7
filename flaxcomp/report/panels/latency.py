"""Latency on each device, with its interval. Devices stand apart; emulated ones say so."""

from dataclasses import dataclass

from flaxcomp.report.charts import TOOLTIP, Spec, chart, colour, short_names, tip
from flaxcomp.report.configurations import Naming
from flaxcomp.report.fronts import Setting, is_number
from flaxcomp.report.points import best_trials, measurement_rows
from flaxcomp.report.quantities import PRECISIONS, quantity
from flaxcomp.store.frame import Row, RunFrame

TITLE = "Latency"
ORDER = 70

LIMIT = 24  # files a device


@dataclass(frozen=True)
class Timing:
    """A file on a device: milliseconds an image, with the ends of the interval (the latency itself where none is known)."""

    trial: str
    label: str
    precision: str
    file: str
    latency_ms: float
    low_ms: float
    high_ms: float


@dataclass(frozen=True)
class DeviceTimings:
    """The fastest first among the files of the winners, then the others; at most LIMIT. `total` counts all."""

    setting: Setting
    timings: tuple[Timing, ...]
    total: int


@dataclass(frozen=True)
class LatencyInfo:
    devices: tuple[DeviceTimings, ...]

    @property
    def caption(self) -> str:
        emulated = [its.setting.device for its in self.devices if its.setting.emulated]
        parts = [
            "Time for one image; bars are 95 % intervals. Each device, runtime, thread count and protocol stands for itself."
        ]
        if emulated:
            parts.append(f"EMULATED, not the time of real hardware: {', '.join(dict.fromkeys(emulated))}.")
        if any(its.total > len(its.timings) for its in self.devices):
            parts.append(f"At most {LIMIT} files a device are drawn, those of the winners first.")
        return " ".join(parts)


def info(frame: RunFrame) -> LatencyInfo | None:
    naming = Naming.of(frame)
    rank = {trial: place for place, trial in enumerate(best_trials(frame, len(frame.trials)))}
    by_setting: dict[Setting, list[Row]] = {}
    for row in measurement_rows(frame):
        if is_number(row.get("latency_ms")):
            by_setting.setdefault(Setting.of(row), []).append(row)
    devices = []
    for setting, rows in sorted(by_setting.items()):
        chosen = sorted(rows, key=lambda row: (rank.get(str(row["trial"]), len(rank)), row["latency_ms"]))[:LIMIT]
        timings = tuple(_timing(row, naming) for row in sorted(chosen, key=lambda row: row["latency_ms"]))
        devices.append(DeviceTimings(setting, timings, len(rows)))
    return LatencyInfo(tuple(devices)) if devices else None


def draw(info: LatencyInfo) -> Spec:
    latency = quantity("latency_ms")
    used = {timing.precision for its in info.devices for timing in its.timings}
    precisions = sorted(used, key=lambda name: (PRECISIONS.index(name) if name in PRECISIONS else len(PRECISIONS), name))
    names = short_names(timing.label for its in info.devices for timing in its.timings)
    every = [timing.latency_ms for its in info.devices for timing in its.timings]
    parts = []
    for its in info.devices:
        values: list[Spec] = []
        for timing in its.timings:
            mark = " (emulated)" if its.setting.emulated else ""
            figures = {
                "Trial": timing.trial,
                "File": timing.file,
                "Latency": latency.text(timing.latency_ms) + mark,
                "95 % interval": f"{latency.text(timing.low_ms)} to {latency.text(timing.high_ms)}",
                "Device": str(its.setting),
            }
            values.append(
                {
                    "file": f"{names[timing.label]} ({timing.trial[:6]}, {timing.file})",
                    "group": timing.precision,
                    "latency": latency.plotted(timing.latency_ms),
                    "low": latency.plotted(timing.low_ms),
                    "high": latency.plotted(timing.high_ms),
                    "tip": tip(timing.label, figures),
                }
            )
        parts.append(_device(its.setting, values, latency.axis(every, "EMULATED" if its.setting.emulated else ""), precisions))
    return chart("Latency of the exported networks on each device, with intervals", vconcat=parts)


def _timing(row: Row, naming: Naming) -> Timing:
    latency = row["latency_ms"]
    low, high = row.get("latency_ci_low"), row.get("latency_ci_high")
    return Timing(
        trial=str(row["trial"]),
        label=naming.label(row, seed=True),
        precision=str(row.get("precision", "")),
        file=str(row.get("file", row.get("precision", ""))),
        latency_ms=latency,
        low_ms=low if is_number(low) else latency,
        high_ms=high if is_number(high) else latency,
    )


def _device(setting: Setting, values: list[Spec], x: Spec, precisions: list[str]) -> Spec:
    order = [value["file"] for value in values]
    y = {
        "field": "file",
        "type": "nominal",
        "title": None,
        "sort": order,
        "axis": {"grid": True, "gridDash": [1, 3]},
    }
    return {
        "title": {"text": str(setting), "anchor": "start", "offset": 8, **({"color": "#b7791f"} if setting.emulated else {})},
        "width": 480,
        "height": {"step": 21},
        "data": {"values": values},
        "encoding": {"y": y, "color": colour(precisions, None), "tooltip": TOOLTIP},
        "layer": [
            {
                "mark": {"type": "rule", "strokeWidth": 3, "opacity": 0.6},
                "encoding": {"x": {"field": "low", **x}, "x2": {"field": "high"}},
            },
            {"mark": {"type": "point", "filled": True, "size": 70}, "encoding": {"x": {"field": "latency", **x}}},
        ],
    }
