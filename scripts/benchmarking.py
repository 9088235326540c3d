"""What the benchmarks share: alternating repetitions, a table, a JSON file.

A contender is one thing to measure. Repetitions alternate (A B C A B C ...), so that a machine
that gets slower or busier does so for all. A contender that fails keeps what it has and is not
tried again; the others go on.
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dqn_zoo.system.machine import describe_machine

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Measurement:
    """One repetition.

    Attributes:
        value: in the unit of the benchmark.
        details: what else is to be kept, for the JSON file.
        note: what else is to be shown when it ends.
    """

    value: float
    details: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, slots=True)
class Contender:
    """One thing to measure.

    Attributes:
        name: one of its kind.
        traits: what its value depends on; columns of the table.
        measure: takes one measurement; whatever it raises ends this contender alone.
    """

    name: str
    traits: Mapping[str, str | int]
    measure: Callable[[], Measurement]


@dataclass(slots=True)
class Result:
    """All measurements of a contender, and the error that ended them, if one did."""

    contender: Contender
    measurements: list[Measurement] = field(default_factory=list)
    error: str | None = None

    @property
    def title(self) -> str:
        """Name and traits of the contender, on one line."""
        traits = ", ".join(f"{key} {_trait(value)}" for key, value in self.contender.traits.items())
        return f"{self.contender.name} ({traits})"

    @property
    def values(self) -> list[float]:
        """The values in the order of their repetitions."""
        return [measurement.value for measurement in self.measurements]

    @property
    def median(self) -> float:
        """Median of the values (NaN without any)."""
        return statistics.median(self.values) if self.values else math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """What is measured.

    Attributes:
        name: of the benchmark.
        unit: of the values.
        baseline: name of the contender that the others are divided by; None: no such column.
        settings: what all contenders have in common, for the JSON file.
    """

    name: str
    unit: str
    baseline: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


def add_arguments(parser: argparse.ArgumentParser, *, repetitions: int) -> None:
    """Add --repetitions and --json."""
    parser.add_argument(
        "--repetitions", type=int, default=repetitions, help=f"(default: {repetitions})"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write every repetition there (default: nowhere)"
    )


def run(
    benchmark: Benchmark,
    contenders: Sequence[Contender],
    *,
    repetitions: int,
    json_file: Path | None,
    say: Say = print,
) -> int:
    """Measure, print the table and write the JSON file; what was measured survives Ctrl-C.

    Returns:
        The exit code: 0, 1 if a contender failed, 130 if the user interrupted.
    """
    results = [Result(contender) for contender in contenders]
    interrupted = alternate(results, repetitions, unit=benchmark.unit, say=say)
    if interrupted:
        say("interrupted; so far:")
    say("\n" + table(benchmark, results))
    if json_file is not None:
        report = as_json(benchmark, results)
        json_file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if interrupted:
        return 130
    return 1 if any(result.error is not None for result in results) else 0


def alternate(results: Sequence[Result], repetitions: int, *, unit: str, say: Say) -> bool:
    """Measure every contender once, then every one again, and so on; return whether interrupted.

    Args:
        results: get the measurements and errors.
        repetitions: of each contender.
        unit: of the values.
        say: is called with a line per repetition as it ends.
    """
    try:
        for repetition in range(1, repetitions + 1):
            for result in results:
                if result.error is None:
                    _measure(result, f"{repetition}/{repetitions} {result.title}", unit, say)
    except KeyboardInterrupt:
        return True
    return False


def _measure(result: Result, title: str, unit: str, say: Say) -> None:
    try:
        measurement = result.contender.measure()
    except Exception as error:  # of whatever kind: it is a peer's
        result.error = f"{type(error).__name__}: {error}"
        say(f"{title}: failed, {result.error}")
        return
    result.measurements.append(measurement)
    say(f"{title}: {_number(measurement.value)} {unit}{measurement.note}")


def table(benchmark: Benchmark, results: Sequence[Result]) -> str:
    """Return a line per contender: its traits, the median (lowest - highest), the ratio."""
    traits = list(dict.fromkeys(key for result in results for key in result.contender.traits))
    baseline = _baseline_median(benchmark, results)
    header = ["", *traits, f"{benchmark.unit} median (min - max)"]
    if benchmark.baseline is not None:
        header.append(f"/ {benchmark.baseline}")
    rows = [header]
    for result in results:
        row = [result.contender.name]
        row += [_trait(result.contender.traits.get(key, "-")) for key in traits]
        row.append(_summary(result))
        if benchmark.baseline is not None:
            row.append(_ratio(result.median, baseline))
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    failures = [f"{r.title} failed: {r.error}" for r in results if r.error is not None]
    return "\n".join(lines + failures)


def as_json(benchmark: Benchmark, results: Sequence[Result]) -> dict[str, Any]:
    """Return everything: the machine, the settings, every single repetition."""
    return {
        "benchmark": benchmark.name,
        "unit": benchmark.unit,
        "baseline": benchmark.baseline,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "settings": dict(benchmark.settings),
        "results": [
            {
                "name": result.contender.name,
                **result.contender.traits,
                "median": None if not result.values else result.median,
                "min": min(result.values, default=None),
                "max": max(result.values, default=None),
                "repetitions": [
                    {"value": measurement.value, **measurement.details}
                    for measurement in result.measurements
                ],
                "error": result.error,
            }
            for result in results
        ],
    }


def _baseline_median(benchmark: Benchmark, results: Sequence[Result]) -> float:
    medians = (r.median for r in results if r.contender.name == benchmark.baseline)
    return next(medians, math.nan)


def _summary(result: Result) -> str:
    values = result.values
    if not values:
        return "-"
    return f"{_number(result.median)} ({_number(min(values))} - {_number(max(values))})"


def _ratio(value: float, baseline: float) -> str:
    ratio = value / baseline
    return "-" if math.isnan(ratio) else f"{ratio:.2f}"


def _trait(value: str | int) -> str:
    return f"{value:,}" if isinstance(value, int) else value


def _number(value: float) -> str:
    """Write a value with three significant digits or more: 12,345, 123, 12.3, 1.23, 0.123."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"
