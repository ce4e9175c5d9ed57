"""Runs Rust's test executables so that one test that fails, hangs or crashes costs no other its answer.

First all tests run together. Those that did not come to an end, and those that failed with an error of the driver (which may
be another test's doing: after a fault all later calls of a process fail), run again one after the other, in a new process
after each fault.
"""

import re
import time
from dataclasses import dataclass, field

import timebox

# The word in the names of all tests that need a GPU.
WORD = "gpu::"
LISTING_SECONDS = 10

STARTED = re.compile(r"^test (\S+)(?: - should panic.*?)? \.\.\. ?(.*)$")
VERDICT = re.compile(r"(ok|FAILED|ignored)(?:, .*)?$")
PANIC = re.compile(r"^thread '([^']+)'.* panicked at (\S+)")
OF_THE_DRIVER = re.compile(r"CUDA_ERROR|CUBLAS_STATUS|DriverError|CublasError|[Cc]uda \{ call")


@dataclass
class Tests:
    """What became of the tests of one executable."""

    names: list = field(default_factory=list)
    passed: set = field(default_factory=set)
    # Name to what it said.
    failed: dict = field(default_factory=dict)
    hung: list = field(default_factory=list)
    crashed: dict = field(default_factory=dict)
    # Why there is nothing above.
    fault: str = ""
    late: bool = False

    def pending(self):
        settled = {*self.passed, *self.failed, *self.hung, *self.crashed}
        return [name for name in self.names if name not in settled]

    def status(self):
        if self.fault or self.failed or self.hung or self.crashed:
            return "failed"
        return "out of time" if self.late or self.pending() else "passed"

    def says(self):
        if self.fault or self.late:
            return self.fault or "not run, no time left"
        counts = [(len(self.failed), "failed"), (len(self.hung), "hung"), (len(self.crashed), "crashed")]
        counts.append((len(self.pending()), "not run"))
        text = f"{len(self.passed)} of {len(self.names)} tests passed"
        return ", ".join([text, *(f"{count} {what}" for count, what in counts if count)])

    def faults(self):
        """A line for each test, but one for all that failed in the same way."""
        lines = [f"hung: {name}" for name in self.hung]
        lines += [f"crashed: {name} ({how})" for name, how in self.crashed.items()]
        alike = {}
        for name, why in self.failed.items():
            alike.setdefault(why.replace(name, "…"), []).append(name)
        for why, (name, *others) in alike.items():
            lines.append(f"failed: {name}{f' and {len(others)} others' if others else ''}: {why}")
        return lines


class Listener:
    """Reads what a test executable says."""

    def __init__(self, tests, one_at_a_time):
        self.tests, self.one_at_a_time = tests, one_at_a_time
        self.running = None
        self.why, self.panicked = {}, None

    def __call__(self, line, is_output):
        if self.panicked:
            name, where = self.panicked
            self.why.setdefault(name, f"{line.strip()} ({where})")
            self.panicked = None
            # The failures are shown again after all verdicts.
            if name in self.tests.failed:
                self.tests.failed[name] = self.why[name]
        if panic := PANIC.match(line):
            self.panicked = panic.groups()
        return is_output and self._verdict(line)

    def _verdict(self, line):
        started = STARTED.match(line)
        if started:
            self.running, line = started.groups()
        # What a test or a sanitizer prints may stand between a name and its verdict, which then has a line of its own.
        verdict = VERDICT.fullmatch(line) if self.running else None
        if not verdict:
            return False
        name, self.running = self.running, None
        if name not in self.tests.names:
            return False
        if verdict[1] == "FAILED":
            self.tests.failed[name] = self.why.get(name, "see the log")
            return self.one_at_a_time and bool(OF_THE_DRIVER.search(self.tests.failed[name]))
        if verdict[1] == "ok":
            self.tests.passed.add(name)
        return False


def listed(executable, filters, log, end, environment):
    """Names of the tests, or None if the executable does not answer."""
    names = []

    def on_line(line, is_output):
        if is_output and line.endswith(": test"):
            names.append(line.removesuffix(": test"))

    ended = timebox.run([executable, *filters, "--list"], log, end, environment, on_line=on_line)
    return names if ended.how == "exited" and ended.code == 0 else None


def run(executable, filters, log, end, environment, silence, prefix=(), together=True, tick=None):
    """Runs the tests whose names contain one of `filters`, each command behind `prefix`.

    Without `together` they run one after the other from the start. Tests that say nothing for `silence` seconds hang.
    """
    if time.monotonic() > end - 1:
        return Tests(late=True)
    names = listed(executable, filters, log, min(end, time.monotonic() + LISTING_SECONDS), environment)
    if names is None:
        return Tests(fault=f"{executable.name} did not list its tests: {log.last_line()}")
    if not names:
        return Tests(fault=f"ran no test: {executable.name} has none called {' or '.join(filters)}")
    tests = Tests(names=names)
    options = {"environment": environment, "silence": silence, "tick": tick}
    if together:
        command = [*prefix, executable, *filters]
        ended = timebox.run(command, log, end, on_line=Listener(tests, False), **options)
        if ended.how == "not started":
            return Tests(fault=log.last_line())
        _crash_at_the_end(tests, ended)
        suspects = {name: why for name, why in tests.failed.items() if OF_THE_DRIVER.search(why)}
        # Where nothing else came of it, it is no test's own doing.
        if not tests.passed and len({_without_place(why) for why in suspects.values()}) == 1 and not tests.pending():
            suspects = {}
        for name in suspects:
            del tests.failed[name]
    while (pending := tests.pending()) and time.monotonic() < end:
        if not _one_after_the_other(tests, pending, [*prefix, executable], log, end, options):
            break
    return tests


def _one_after_the_other(tests, pending, command, log, end, options):
    """Until one of them brings the process down. Whether any was settled."""
    listener = Listener(tests, True)
    command = [*command, "--exact", "--test-threads=1", "--nocapture", *pending]
    ended = timebox.run(command, log, end, on_line=listener, **options)
    unfinished = STARTED.match(ended.unfinished)
    running = unfinished[1] if unfinished else listener.running
    if running in tests.pending():
        if ended.how == "silent":
            tests.hung.append(running)
        elif ended.how in ("crashed", "exited"):
            tests.crashed[running] = f"exit status {ended.code}"
    _crash_at_the_end(tests, ended)
    return len(tests.pending()) < len(pending)


def _crash_at_the_end(tests, ended):
    if ended.how == "crashed" and not tests.pending():
        tests.crashed["after the last test"] = f"exit status {ended.code}"


def _without_place(why):
    return why.rsplit(" (", 1)[0]
