"""Times in milliseconds, on the GPU with events and on the CPU with the clock."""

import statistics
import time

import torch

WARM_UP = 5


def times(run, device, repeats):
    """Milliseconds of each of `repeats` runs; `run` gets the number of the run."""
    for i in range(WARM_UP):
        run(i)
    if device == "cpu":
        return [on_clock(run, i) for i in range(repeats)]
    torch.cuda.synchronize()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    events[0].record()
    for i in range(repeats):
        run(i)
        events[i + 1].record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) for before, after in zip(events, events[1:])]


def on_clock(run, i):
    start = time.perf_counter()
    run(i)
    return (time.perf_counter() - start) * 1e3


def quartiles(values):
    """Lower quartile, median and upper quartile."""
    return statistics.quantiles(values, n=4, method="inclusive")
