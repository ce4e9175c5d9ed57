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
    for describe in (_kernels, _ratios, _sweep):
        try:
            found += describe(document)
        except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError, statistics.StatisticsError):
            continue
    return found


def _kernels(document):
    """The slowest kernels beside a copy, and what accumulating costs the library's product."""
    rows = [row for row in document["kernels"] if "of_copy" in row]
    largest = max((row["m"] * row["k"] * row["n"] for row in rows), default=0)
    chosen = [row for row in rows if row["m"] * row["k"] * row["n"] == largest and not row["kernel"].startswith("product")]
    chosen.sort(key=lambda row: row["of_copy"])
    found = [f"a copy: {document['copy_gb_per_s']:.0f} GB/s"] if "copy_gb_per_s" in document else []
    found += [
        f"{row['of_copy']:4.0%} of a copy: {row['kernel']}, p {row['p']:g}, {row['m']} × {row['k']} × {row['n']}, r {row['r']}"
        for row in chosen[: MOST_LINES - 2]
    ]
    times = {(row["kernel"], *_problem(row)): row["microseconds"] for row in rows}
    prices = [
        times[("product_beta1", *key[1:])] / time for key, time in times.items() if key[0] == "product_beta0" and time > 0
    ]
    if prices:
        found.append(f"β = 1 against β = 0: {min(prices):.3f} to {max(prices):.3f}, median {statistics.median(prices):.3f}")
    return found


def _problem(row):
    return tuple(row.get(name) for name in ("operation", "m", "k", "n", "r", "p"))


def _ratios(document):
    """Ratios to the frozen layer, a line for each problem."""
    cells = {}
    for row in document["records"]:
        if row["system"] in ("fused", "peft-compiled") and row["pass"] in ("forward", "step"):
            problem = f"{row['m']} × {row['k']} × {row['n']}, r {row['r']}, {row['system']}"
            cells.setdefault(problem, []).append(f"{row['pass']} p {row['p']:g} {row['ratio']:.3f}")
    return [f"{problem}: {', '.join(ratios)}" for problem, ratios in list(cells.items())[:MOST_LINES]]


def _sweep(document):
    """The fastest variant of each kernel."""
    found = []
    for row in document["ranking"][:MOST_LINES]:
        found.append(" ".join(f"{key} {value}" for key, value in row.items() if isinstance(value, (str, int, float))))
    return found


def worst_kernels(document, count=4):
    """Names of the kernels with the smallest shares of a copy's bandwidth on the first problem, the worst first."""
    try:
        rows = [row for row in document["kernels"] if not row["kernel"].startswith("product")]
        first = [row for row in rows if _problem(row)[1:5] == _problem(rows[0])[1:5]]
        names = [row["kernel"] for row in sorted(first, key=lambda row: row["of_copy"])]
    except (KeyError, TypeError, IndexError):
        return []
    return list(dict.fromkeys(names))[:count]


def sanitizer_errors(text):
    """Errors that compute-sanitizer counted, or showed before it was stopped."""
    counted = sum(int(count) for count in re.findall(r"ERROR SUMMARY: (\d+) error", text))
    counted += sum(int(count) for count in re.findall(r"RACECHECK SUMMARY: (\d+) hazard", text))
    shown = re.findall(r"^========= (?:Invalid|Uninitialized|Misaligned|Error:|Race|Barrier|Out-of|Program hit)", text, re.M)
    return max(counted, len(shown))
