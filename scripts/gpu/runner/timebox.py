"""Runs a command for a limited time, with its output limited in size."""

import collections
import ctypes
import os
import selectors
import signal
import subprocess
import time
from dataclasses import dataclass

# Between asking a command to end and killing it, and again before it is given up.
GRACE = 2.0
# What a log keeps of the beginning and of the end of the output.
LOG_BYTES = 96 << 10


class Log:
    """The beginning and the end of what a command says."""

    def __init__(self, path, half=LOG_BYTES):
        self.path, self.half = path, half
        self.head, self.tail, self.tail_bytes, self.left_out = bytearray(), collections.deque(), 0, 0

    def write(self, data):
        room = self.half - len(self.head)
        self.head += data[:room]
        data = data[room:] if room < len(data) else b""
        if data:
            self.tail.append(data)
            self.tail_bytes += len(data)
        while self.tail_bytes > self.half:
            first = self.tail.popleft()
            excess = min(len(first), self.tail_bytes - self.half)
            if excess < len(first):
                self.tail.appendleft(first[excess:])
            self.tail_bytes -= excess
            self.left_out += excess

    def text(self):
        left_out = f"\n[{self.left_out} bytes left out]\n".encode() if self.left_out else b""
        return bytes(self.head) + left_out + b"".join(self.tail)

    def save(self):
        self.path.write_bytes(self.text())

    def last_line(self):
        """The last line that says something, those of this module left out."""
        lines = [line.strip() for line in self.text().decode(errors="replace").splitlines()]
        said = [line for line in lines if line and not line.startswith(("$ ", "["))]
        return said[-1] if said else "it said nothing"


@dataclass
class Ended:
    """How a command ended."""

    # "exited", "crashed" (by a signal), "out of time", "silent" (for too long), "stopped" (as asked) or "not started".
    how: str
    code: int = 0
    seconds: float = 0.0
    # The last line of standard output, if it is not complete and lines were listened to.
    unfinished: str = ""


class Lines:
    """Cuts a stream into lines."""

    LONGEST = 1 << 16

    def __init__(self):
        self.partial = b""

    def add(self, data):
        *complete, self.partial = (self.partial + data).split(b"\n")
        self.partial = self.partial[-self.LONGEST :]
        return [line[-self.LONGEST :].decode(errors="replace") for line in complete]


def run(command, log, end, environment=None, folder=None, on_line=None, silence=None, tick=None):
    """Runs `command` until `end` on the monotonic clock.

    `on_line(line, is_output)` gets each line of standard output and standard error and says whether to stop. With
    `silence`, a command that says nothing for that many seconds is ended. `tick` is called all the while.
    """
    start = time.monotonic()
    log.write(f"$ {' '.join(map(str, command))}\n".encode())
    try:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=folder,
            preexec_fn=_own_group,
        )
    except OSError as error:
        log.write(f"{error}\n".encode())
        return Ended("not started", 127)
    # Standard error first: a test says why it fails before it is said to have failed.
    streams = {process.stderr: Lines(), process.stdout: Lines()}
    try:
        how = _follow(process, streams, log, end, on_line, silence, tick)
    finally:
        _end(process)
        for stream in streams:
            stream.close()
    unfinished = streams[process.stdout].partial.decode(errors="replace")
    code = process.returncode if process.returncode is not None else -int(signal.SIGKILL)
    if how == "exited" and code < 0:
        how = "crashed"
    log.write(f"\n[{how}, {code}, after {time.monotonic() - start:.1f} s]\n".encode())
    return Ended(how, code, time.monotonic() - start, unfinished)


def die_with_parent():
    """In the child: whoever kills the runner kills it, too."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)


def _own_group():
    """In the child: a group to be killed as one."""
    os.setpgid(0, 0)
    die_with_parent()


def _follow(process, streams, log, end, on_line, silence, tick):
    heard = time.monotonic()
    with selectors.DefaultSelector() as selector:
        for stream in streams:
            os.set_blocking(stream.fileno(), False)
            selector.register(stream, selectors.EVENT_READ)
        while True:
            if tick:
                tick()
            now = time.monotonic()
            if now >= end:
                return "out of time"
            if silence is not None and now - heard >= silence:
                return "silent"
            ready = {key.fileobj for key, _ in selector.select(min(0.1, end - now))}
            # What holds a stream open after the command is gone does not matter.
            if not ready and process.poll() is not None:
                return "exited"
            for stream, lines in streams.items():
                if stream not in ready:
                    continue
                data = os.read(stream.fileno(), 1 << 16)
                if not data:
                    selector.unregister(stream)
                    if not selector.get_map():
                        return _wait(process, end)
                    continue
                heard = time.monotonic()
                log.write(data)
                for line in lines.add(data) if on_line else ():
                    if on_line(line, stream is process.stdout):
                        return "stopped"


def _wait(process, end):
    try:
        process.wait(max(0.0, end - time.monotonic()))
        return "exited"
    except subprocess.TimeoutExpired:
        return "out of time"


def _end(process):
    """Ends the whole group. What does not die even so, as a process that hangs in the driver, is left behind."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            _signal(process, number)
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                continue
        break
    _signal(process, signal.SIGKILL)


def _signal(process, number):
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        pass
