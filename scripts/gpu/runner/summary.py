"""What is printed last."""

MOST_LINES = 60
WIDTH = 160
# Of one stage.
MOST_DETAILS = 12


def of_stage(stage):
    """The line that is printed when a stage is over."""
    seconds = f"{stage['seconds']:6.1f} s" if "seconds" in stage else " " * 8
    return shortened(f"{stage['name']:<16} {stage['status']:<12} {seconds}  {stage.get('says', '')}".rstrip())


def of_all(document):
    """At most `MOST_LINES` lines: every stage, then what failed, then what was found."""
    gpu = document.get("gpu") or {}
    card = ", driver ".join(filter(None, [gpu.get("name"), gpu.get("driver")])) or "no GPU"
    lines = [f"=== {card}; commit {document['commit']}; {document['seconds']:.0f} of {document['budget']} s"]
    stages = document["stages"]
    lines += [of_stage(stage) for stage in stages]
    # Failures first: should there be too many lines, numbers can be had from the records.
    for failed in (True, False):
        for stage in stages:
            if (stage["status"] == "failed") == failed and stage.get("lines"):
                details = stage["lines"][:MOST_DETAILS]
                more = len(stage["lines"]) - len(details)
                details += [f"… {more} more in results.json"] if more else []
                lines += [f"--- {stage['name']}", *(shortened(f"  {line}") for line in details)]
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], f"… {len(lines) - MOST_LINES + 1} lines more in results.json"]
    return lines


def shortened(line):
    return line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"
