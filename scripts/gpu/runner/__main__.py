"""Tests and times this crate on a GPU, in a limited time."""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from datetime import datetime, timezone
from pathlib import Path

START = time.monotonic()
sys.path.insert(0, str(Path(__file__).resolve().parent))

import card  # noqa: E402
import stages as all_stages  # noqa: E402
import summary  # noqa: E402
import timebox  # noqa: E402
from results import Results  # noqa: E402
from unpack import unpack  # noqa: E402

BUNDLE = Path(__file__).resolve().parent.parent
# For ending what runs last, saving and printing.
RESERVE = 3 * timebox.GRACE


class Interrupted(BaseException):
    """The runner was asked to end."""


def parse(words):
    names = [stage.name for stage in all_stages.STAGES]
    listed = "\n".join(f"  {stage.name:<16} {stage.most:>3} s  {stage.settles}" for stage in all_stages.STAGES)
    parser = argparse.ArgumentParser(
        prog="run.sh",
        description=__doc__,
        epilog=f"stages, in this order, with the most time that each gets:\n{listed}\n\n"
        "OUT/results.json and OUT/logs.tar.gz are rewritten all the while, so that a kill loses nothing.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--budget", type=int, default=240, metavar="SECONDS", help="for everything (default: 240)")
    parser.add_argument("--out", type=Path, default=BUNDLE / "results", metavar="FOLDER", help="for the results")
    parser.add_argument(
        "--silence", type=float, default=20, metavar="SECONDS", help="tests that say nothing for so long hang (default: 20)"
    )
    parser.add_argument("--list", action="store_true", help="names the stages and what each settles")
    parser.add_argument("stages", nargs="*", metavar="STAGE[=SECONDS]", help="only these (default: all)")
    arguments = parser.parse_args(words)
    if arguments.list:
        print(listed)
        raise SystemExit(0)
    arguments.most = {}
    for word in arguments.stages:
        name, _, seconds = word.partition("=")
        if name not in names or (seconds and not seconds.isdecimal()):
            parser.error(f"{word} is no stage; there are: {', '.join(names)}")
        arguments.most[name] = int(seconds) if seconds else None
    return arguments


def environment(files, commit):
    """What everything runs with."""
    return {
        **os.environ,
        "LORA_KERNELS_REQUIRE_GPU": "1",
        "LORA_KERNELS_SOURCE_ROOT": str(files / "sources"),
        "LORA_COMMIT": commit,
        "PYTHONUNBUFFERED": "1",
        "RUST_BACKTRACE": "0",
    }


def run_stage(bench, stage, end):
    """The stage's entry in the results."""
    start = time.monotonic()
    bench.stage, bench.end = stage.name, end
    try:
        outcome = stage.run(bench)
    except all_stages.NotRun as reason:
        return {"name": stage.name, "status": "not run", "says": str(reason)}
    except Exception as error:  # A fault of one stage is no reason to lose the others.
        traceback.print_exc()
        outcome = all_stages.Outcome("failed", f"the runner: {type(error).__name__}: {error}")
    return {
        "name": stage.name,
        "status": outcome.status,
        "seconds": round(time.monotonic() - start, 1),
        "says": outcome.says,
        "lines": outcome.lines[:50],
        **outcome.details,
    }


def run_all(arguments, bench, results):
    end = START + arguments.budget - RESERVE
    samples = None
    try:
        for stage in all_stages.STAGES:
            # What the probe finds out, all others need.
            if arguments.most and stage.name not in arguments.most and stage.name != "probe":
                continue
            left = end - time.monotonic()
            if left < stage.least:
                entry = {"name": stage.name, "status": "not run", "says": "no time left"}
                results.add(entry)
                print(summary.of_stage(entry), flush=True)
                continue
            results.start(stage.name)
            mark = samples.mark() if samples else 0
            most = arguments.most.get(stage.name) or stage.most
            entry = run_stage(bench, stage, min(end, time.monotonic() + most))
            clocks = samples.since(mark) if samples and "seconds" in entry else None
            if clocks:
                entry["clocks"] = clocks
                entry["lines"] += [card.line(clocks)] if entry["lines"] and entry["status"] != "failed" else []
            results.end(entry)
            print(summary.of_stage(entry), flush=True)
            if stage.name == "probe" and bench.card:
                samples = card.Samples(bench.work / "clocks.csv", bench.environment, timebox.die_with_parent)
    finally:
        if samples:
            samples.stop()


def main(words):
    arguments = parse(words)
    arguments.out.mkdir(parents=True, exist_ok=True)
    files = unpack(BUNDLE / "files.tar.gz")
    commit = (files / "commit").read_text().strip()
    work = Path(tempfile.mkdtemp(prefix="lora-kernels-logs-"))
    about = {"commit": commit, "date": datetime.now(timezone.utc).isoformat(timespec="seconds"), "budget": arguments.budget}
    results = Results(arguments.out, work, about)
    bench = all_stages.Bench(files, work, environment(files, commit), results, arguments.silence)

    def interrupt(number, frame):
        raise Interrupted(signal.Signals(number).name)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, interrupt)
    interrupted = None
    try:
        run_all(arguments, bench, results)
    except Interrupted as reason:
        interrupted = str(reason)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    document = results.document
    document["finished"] = interrupted is None
    document["seconds"] = round(time.monotonic() - START, 1)
    results.save()
    shutil.rmtree(work, ignore_errors=True)
    if interrupted:
        print(f"interrupted by {interrupted}")
    print("\n".join(["", *summary.of_all(document)]), flush=True)
    failed = any(stage["status"] == "failed" for stage in document["stages"])
    return 1 if failed or interrupted else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
