"""What is run, in the order of what it settles."""

import importlib.util
import sys
import time
from dataclasses import dataclass, field
from typing import Callable

import findings
import libraries
import libtest
import timebox
from card import about

# Between the last problem that a benchmark starts and the end of its time.
LAST_PROBLEM_SECONDS = 12


class NotRun(Exception):
    """Why a stage cannot run here."""


@dataclass
class Outcome:
    status: str
    says: str
    # Lines for the summary: what failed, what was found.
    lines: list = field(default_factory=list)
    details: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    name: str
    settles: str
    # It is not begun with less time than this, and gets no more than that.
    least: int
    most: int
    run: Callable


class Bench:
    """Where everything is, and how things are run in the stage that runs now."""

    def __init__(self, files, work, environment, results, silence):
        self.files, self.work, self.environment, self.results = files, work, environment, results
        # Seconds after which a test that says nothing hangs.
        self.silence = silence
        self.card, self.stage, self.end = None, "", 0.0

    def left(self):
        return self.end - time.monotonic()

    def log(self, suffix=""):
        log = timebox.Log(self.work / f"{self.stage}{suffix}.log")
        self.results.logs = [log]
        return log

    def executable(self, place):
        path = self.files / place
        if not path.exists():
            raise NotRun("not in this bundle")
        return path

    def program(self, name):
        path = libraries.program(name, self.environment)
        if path is None:
            raise NotRun(f"{name} is not there")
        return path

    def command(self, command, more=(), suffix=""):
        """Runs a command to its end. Its outcome as a stage's, and its log."""
        log = self.log(suffix)
        environment = {**self.environment, **dict(more)}
        ended = timebox.run(command, log, self.end, environment, self.files, tick=self.results.tick)
        log.save()
        return outcome(ended, log), log

    def tests(self, executable, filters, suffix="", **options):
        log = self.log(suffix)
        options = {"silence": self.silence, "tick": self.results.tick, **options}
        tests = libtest.run(executable, filters, log, self.end, self.environment, **options)
        log.save()
        return tests, log

    def record(self, name=None):
        return self.work / f"{name or self.stage}.json"


def outcome(ended, log):
    """Of a command that is a stage by itself."""
    if ended.how == "exited" and ended.code == 0:
        return Outcome("passed", "ran to its end")
    if ended.how == "out of time":
        return Outcome("out of time", "stopped at the end of its time")
    return Outcome("failed", f"{ended.how} ({ended.code}): {log.last_line()}")


def probe(bench):
    """The card, the driver, the libraries and the tools."""
    bench.card, reason = about(bench.environment, max(1.0, bench.left() / 2))
    found = libraries.prepare(bench.environment, bench.end)
    tools = {name: libraries.program(name, bench.environment) for name in ("nvcc", "compute-sanitizer", "ncu")}
    if tools["nvcc"]:
        bench.environment.setdefault("NVCC", tools["nvcc"])
    bench.environment["LORA_DRIVER"] = (bench.card or {}).get("driver", "")
    path = bench.environment.get("LD_LIBRARY_PATH", "")
    bench.results.document |= {"gpu": bench.card, "libraries": found, "library_path": path, "tools": tools}
    lines = [f"{name}: {place or 'found nowhere'}" for name, place in {**found, **tools}.items()]
    if bench.card is None:
        return Outcome("failed", reason, lines)
    says = "{name}, driver {driver}, compute capability {compute_capability}, {memory}".format(**bench.card)
    missing = [name for name, place in found.items() if place is None]
    if missing:
        return Outcome("failed", f"{says}; {', '.join(missing)} found nowhere", lines)
    return Outcome("passed", says, lines)


def consumer(bench):
    result, log = bench.command([bench.executable("consumer")])
    return Outcome(result.status, log.last_line() if result.status == "passed" else result.says)


def primitives(bench):
    tests, _ = bench.tests(bench.executable("tests/primitives"), [libtest.WORD])
    return of_tests({"primitives": tests})


def operations(bench):
    """All executables with tests of the GPU but the primitives."""
    paths = sorted(path for path in (bench.files / "tests").glob("*") if path.name != "primitives")
    if not paths:
        raise NotRun("not in this bundle")
    # The one with most tests first.
    paths.sort(key=lambda path: path.name != "operations")
    return of_tests({path.name: bench.tests(path, [libtest.WORD], f"-{path.name}")[0] for path in paths})


def of_tests(all_tests):
    statuses = [tests.status() for tests in all_tests.values()]
    status = next((status for status in ("failed", "out of time") if status in statuses), "passed")
    says = "; ".join(f"{name}: {tests.says()}" for name, tests in all_tests.items())
    faults = {name: tests.faults() for name, tests in all_tests.items()}
    lines = [line for lines in faults.values() for line in lines]
    pending = {name: tests.pending()[:50] for name, tests in all_tests.items() if tests.pending()}
    return Outcome(status, says, lines, {"faults": lines[:50], "not_run": pending})


def table(executable, more=()):
    """A benchmark that writes a record."""

    def run(bench):
        path = bench.executable(f"benches/{executable}")
        seconds = max(1, int(bench.left()) - LAST_PROBLEM_SECONDS)
        variables = {
            "LORA_BENCH_JSON": str(bench.record()),
            "LORA_BENCH_SECONDS": str(seconds),
            "LORA_BENCH_DEVICE": "cuda",
            "LORA_BENCH_DTYPE": "bf16",
            **dict(more),
        }
        result, _ = bench.command([path, "--bench"], variables)
        document = findings.read(bench.record())
        if result.status == "passed" and document is None:
            return Outcome("failed", "wrote no record")
        not_run = (document or {}).get("not_run") or []
        left = f", {len(not_run)} problems not run" if not_run else ""
        lines = findings.lines(document) if document else []
        return Outcome(result.status, result.says + left, lines, {"not_run": not_run})

    return run


GRAPHS = [("LORA_BENCH_GRAPHS", "1")]


def finetune(bench):
    result, log = bench.command([bench.executable("examples/finetune"), "--device", "cuda"])
    return Outcome(result.status, "every claim held" if result.status == "passed" else result.says)


def sanitizer(tool, groups):
    """Tests of the GPU under one tool of compute-sanitizer."""

    def run(bench):
        for name, _ in groups:
            bench.executable(f"tests/{name}")
        prefix = [bench.program("compute-sanitizer"), "--tool", tool, "--error-exitcode", "9", "--print-limit", "20"]
        results, errors = {}, 0
        for name, filters in groups:
            label = f"{name} {' '.join(filters)}"
            tests, log = bench.tests(
                bench.executable(f"tests/{name}"), filters, f"-{len(results)}", prefix=prefix, together=False, silence=None
            )
            text = log.text().decode(errors="replace")
            errors += findings.sanitizer_errors(text)
            if not tests.fault and "COMPUTE-SANITIZER" not in text and tests.passed:
                tests.fault = "compute-sanitizer did not begin"
            results[label] = tests
        result = of_tests(results)
        result.says = f"{errors} errors; {result.says}"
        result.details["errors"] = errors
        if errors:
            result.status = "failed"
        return result

    return run


def counters(bench):
    """The profiler's view of the kernels that came out worst."""
    path = bench.executable("benches/kernels")
    program = bench.program("ncu")
    names = findings.worst_kernels(findings.read(bench.record("kernels")))
    sections = ["SpeedOfLight", "MemoryWorkloadAnalysis", "Occupancy", "LaunchStats", "WarpStateStats"]
    command = [program, "--clock-control", "none", "--launch-count", "8"]
    command += ["--kernel-name", f"regex:^({'|'.join(names)})$"] if names else []
    command += [word for section in sections for word in ("--section", section)]
    variables = {
        "LORA_BENCH_SECONDS": "1",
        "LORA_BENCH_ROUNDS": "1",
        "LORA_BENCH_DEVICE": "cuda",
        "LORA_BENCH_DTYPE": "bf16",
        "LORA_BENCH_JSON": str(bench.record()),
    }
    result, log = bench.command([*command, path, "--bench"], variables)
    # What is timed under the profiler is no measurement.
    bench.record().unlink(missing_ok=True)
    if result.status == "passed" and "Section: " not in log.text().decode(errors="replace"):
        return Outcome("failed", f"ncu profiled nothing: {log.last_line()}")
    return Outcome(result.status, f"{result.says}; kernels: {', '.join(names) or 'the first ones'}")


def peers(bench):
    if importlib.util.find_spec("torch") is None:
        raise NotRun("python3 has no torch")
    command = [sys.executable, bench.files / "peers/peers.py", "--out", bench.record()]
    command += ["--seconds", str(max(1, int(bench.left()) - 2 * LAST_PROBLEM_SECONDS))]
    command += ["--commit", bench.environment["LORA_COMMIT"], "--driver", bench.environment.get("LORA_DRIVER", "")]
    result, _ = bench.command(command)
    return Outcome(result.status, result.says, findings.lines(findings.read(bench.record()) or {}))


# All operations and element types on shapes of a few hundred elements; then the instructions one by one.
FEW = [
    ("operations", ["golden::gpu::", "gpu::same_bits_every_time", "gpu::small_integers_are_exact", "restore::gpu::"]),
    ("primitives", [libtest.WORD]),
]
ALL = [*FEW, ("operations", [libtest.WORD])]

STAGES = [
    Stage("probe", "which card, driver, libraries and tools are there", 1, 30, probe),
    Stage("consumer", "fatbins load, arguments arrive, cuBLASLt answers", 3, 45, consumer),
    Stage("primitives", "each PTX wrapper does what the emulator does", 5, 45, primitives),
    Stage("operations", "every operation is right on the GPU", 8, 90, operations),
    Stage("kernels", "each kernel's share of a copy's bandwidth; what β = 1 costs", 15, 75, table("kernels")),
    Stage("overhead-graphs", "ratios to the frozen layer, launches in graphs", 15, 60, table("overhead", GRAPHS)),
    Stage("memcheck", "no kernel reads or writes outside its buffers", 12, 60, sanitizer("memcheck", ALL)),
    Stage("sweep", "which tile, how many stages, which split of each kernel", 20, 120, table("sweep")),
    Stage("overhead", "ratios to the frozen layer, kernel by kernel: gaps of launches", 15, 60, table("overhead")),
    Stage("finetune", "a network trains, merges and restores", 8, 45, finetune),
    Stage("racecheck", "no races in shared memory", 12, 60, sanitizer("racecheck", FEW)),
    Stage("initcheck", "no reads of memory never written", 12, 60, sanitizer("initcheck", FEW)),
    Stage("counters", "what bounds the worst kernels, by the profiler", 20, 60, counters),
    Stage("peers", "ratios of PyTorch and PEFT on the same shapes", 40, 90, peers),
]
