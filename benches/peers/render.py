"""Turns the JSON of benchmarks into Markdown tables.

    python3 render.py RESULT.json …                          prints the tables
    python3 render.py --into docs/performance.md RESULT.json …   replaces what stands between the two marker lines

One section a device, one table an element type and pass; a row is a problem and dropout probability, a column a system. The frozen
layer is given in milliseconds, every other system as a ratio to it, with the quartiles where they are apart.
"""

import argparse
import json
from pathlib import Path

BEGIN = "<!-- tables by benches/peers/render.py: begin -->"
END = "<!-- tables by benches/peers/render.py: end -->"

# Columns from left to right; others follow in alphabetical order.
SYSTEMS = ["frozen", "library", "fused", "accumulated", "unfused", "addmm", "peft", "peft-compiled"]
PASSES = ["forward", "backward", "step"]


def render(documents):
    """The tables of all documents, those of one device together."""
    devices = {}
    for document in documents:
        devices.setdefault(document["device"], []).append(document)
    return "\n".join(section(device, group) for device, group in devices.items())


def section(device, documents):
    lines = [f"### {device}", ""]
    lines += [f"- {origin(document)}" for document in documents]
    records = [record for document in documents for record in document["records"]]
    kinds = {(record["dtype"], record["pass"]) for record in records}
    for dtype, name in sorted(kinds, key=lambda kind: (kind[0], PASSES.index(kind[1]))):
        chosen = [record for record in records if (record["dtype"], record["pass"]) == (dtype, name)]
        lines += ["", f"**{name}, {dtype}**", "", *table(chosen)]
    return "\n".join(lines) + "\n"


def origin(document):
    """Where the numbers come from, in one line."""
    details = {key: document[key] for key in ("commit", "driver", "torch", "cuda", "threads") if document.get(key)}
    return ", ".join([document["backend"], *(f"{key} {value}" for key, value in details.items())])


def table(records):
    systems = sorted({record["system"] for record in records}, key=lambda name: (rank(name), name))
    cells = {(problem(record), record["system"]): record for record in records}
    lines = [
        "| M | K × N | r | p | " + " | ".join(name + (" (ms)" if name == "frozen" else "") for name in systems) + " |",
        "|" + "---|" * (4 + len(systems)),
    ]
    for row in sorted({problem(record) for record in records}):
        m, k, n, r, p = row
        values = [cell(cells.get((row, name)) or without_dropout(cells, row, name)) for name in systems]
        lines.append(f"| {m} | {k} × {n} | {r} | {p:g} | " + " | ".join(values) + " |")
    return lines


def without_dropout(cells, row, name):
    """The frozen layer has no dropout: it is timed once and shown in every row."""
    return cells.get(((*row[:4], 0), name)) if name in ("frozen", "library") else None


def cell(record):
    if record is None:
        return ""
    if record["system"] == "frozen":
        return f"{record['milliseconds']:.3g}"
    low, high = record["ratio_quartiles"]
    spread = f" ({low:.2f}–{high:.2f})" if f"{low:.2f}" != f"{high:.2f}" else ""
    return f"{record['ratio']:.2f}×{spread}"


def problem(record):
    return record["m"], record["k"], record["n"], record["r"], record["p"]


def rank(name):
    return SYSTEMS.index(name) if name in SYSTEMS else len(SYSTEMS)


def replace(text, tables):
    """`text` with new tables between the markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"the file lacks the lines\n{BEGIN}\n{END}")
    return f"{before}{BEGIN}\n\n{tables}\n{END}{after}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path)
    parser.add_argument("results", nargs="+", type=Path)
    arguments = parser.parse_args()
    tables = render([json.loads(path.read_text(encoding="utf-8")) for path in arguments.results])
    if arguments.into is None:
        print(tables, end="")
    else:
        text = arguments.into.read_text(encoding="utf-8")
        arguments.into.write_text(replace(text, tables), encoding="utf-8")


if __name__ == "__main__":
    main()
