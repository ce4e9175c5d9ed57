"""What the records of benchmarks and the logs of tools say, in a few lines."""

import json
import re
import statistics

# Lines of a table in the summary; the record has all of it.
MOST_LINES = 7


def read(path):
    """A record, or None if there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def lines(document):
    """The essence of any record. Whatever lacks a field that is asked for is left out."""
    found = []
    for describe in (_kernels, _products, _ratios, _sweep):
        try:
            found += describe(document)
        except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError, statistics.StatisticsError):
            continue
    return found


def _kernels(document):
    """The slowest kernels of the largest problem beside a copy."""
    rows = document["kernels"]
    largest = max((row["m"] * row["k"] * row["n"] for row in rows), default=0)
    chosen = [row for row in rows if row["m"] * row["k"] * row["n"] == largest]
    chosen.sort(key=lambda row: row["of_copy"])
    found = [f"a copy: {document['copy_gb_per_s']:.0f} GB/s"] if "copy_gb_per_s" in document else []
    return found + [
        f"{row['of_copy']:4.0%} of a copy: {row['kernel']}, p {row['p']:g}, {row['m']} × {row['k']} × {row['n']}, r {row['r']}"
        for row in chosen[: MOST_LINES - 2]
    ]


def _products(document):
    """What accumulating, or summing over the rank too, costs the library's product: times over those of β = 0."""
    ratios = {}
    for row in document["products"]:
        ratios.setdefault(row["product"].removeprefix("product_"), []).append(row["to_beta0"])
    return [
        f"{name} against β = 0: {min(times):.3f} to {max(times):.3f}, median {statistics.median(times):.3f}"
        for name, times in ratios.items()
        if not name.endswith("_beta0")
    ]


def _ratios(document):
    """Ratios to the frozen layer, a line for each problem."""
    cells = {}
    for row in document["records"]:
        if row["system"] in ("fused", "peft-compiled") and row["pass"] in ("forward", "step"):
            problem = f"{row['m']} × {row['k']} × {row['n']}, r {row['r']}, {row['system']}"
            cells.setdefault(problem, []).append(f"{row['pass']} p {row['p']:g} {row['ratio']:.3f}")
    return [f"{problem}: {', '.join(ratios)}" for problem, ratios in list(cells.items())[:MOST_LINES]]


def _sweep(document):
    """The best variant of each kernel in each use, and candidates that gave wrong results."""
    found = [
        f"{row['operation']} ({row['pass']}, p {row['p']:g}): {row['kernel']} takes {row['to_planned']:.3f} of "
        f"{row['planned_kernel']} on {row['problems']} problems"
        for row in document["winners"]
    ]
    wrong = sorted({entry["kernel"] for row in document["rankings"] for entry in row["wrong"]})
    return ([f"WRONG RESULTS: {', '.join(wrong)}"] if wrong else []) + found[: 2 * MOST_LINES]


def worst_kernels(document, count=4):
    """Names of the kernels with the smallest shares of a copy's bandwidth on the first problem, the worst first."""
    try:
        rows = document["kernels"]
        first = [row for row in rows if _problem(row) == _problem(rows[0])]
        names = [row["kernel"] for row in sorted(first, key=lambda row: row["of_copy"])]
    except (KeyError, TypeError, IndexError):
        return []
    return list(dict.fromkeys(names))[:count]


def _problem(row):
    return tuple(row[name] for name in ("m", "k", "n", "r"))


def sanitizer_errors(text):
    """Errors that compute-sanitizer counted, or showed before it was stopped."""
    counted = sum(int(count) for count in re.findall(r"ERROR SUMMARY: (\d+) error", text))
    counted += sum(int(count) for count in re.findall(r"RACECHECK SUMMARY: (\d+) hazard", text))
    shown = re.findall(r"^========= (?:Invalid|Uninitialized|Misaligned|Error:|Race|Barrier|Out-of|Program hit)", text, re.M)
    return max(counted, len(shown))
