"""Times other ways to train a LoRA layer, on the shapes and with the JSON fields of this crate's benchmarks.

    python3 peers.py --out FILE [--grid full|default|smoke] [--cpu] [--seconds N] [--commit C] [--driver D]

Forward without gradients, and step = forward and backward (dX, dA, dB; W frozen). Inputs are random and rotate over several
buffers, so that the last-level cache does not hold them from one run to the next. Ratios are to the frozen layer.
Needs torch; rows of PEFT need peft. See requirements.txt.
"""

import argparse
import json
import time

import torch

from systems import Layer, systems
from timing import quartiles, times

# Bytes that inputs and gradients of all rotated buffers take together: several last-level caches.
ROTATED_BYTES = 400e6

SHORT = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}


def grid(name):
    """Problems (m, k, n, r), as in benches/common/grid.rs."""
    if name == "smoke":
        return [(5, 48, 40, 3), (1, 16, 24, 8)]
    if name == "full":
        layers = [(4096, 4096), (4096, 14336), (14336, 4096), (4096, 1024)]
        return [(m, k, n, r) for m in (1, 16, 512, 2048, 8192) for k, n in layers for r in (8, 16, 64)]
    return [
        (8192, 4096, 4096, 16),
        (8192, 4096, 4096, 64),
        (8192, 4096, 14336, 16),
        (8192, 14336, 4096, 16),
        (8192, 4096, 1024, 16),
        (2048, 4096, 4096, 16),
        (512, 4096, 4096, 16),
        (16, 4096, 4096, 16),
    ]


class Buffers:
    """Several X and dY, one after the other."""

    def __init__(self, m, k, n, device, dtype):
        count = 2 if device == "cpu" else min(24, 2 + int(ROTATED_BYTES / (2 * m * (k + n))))
        self.x = [torch.randn(m, k, device=device, dtype=dtype).requires_grad_() for _ in range(count)]
        self.dy = [torch.randn(m, n, device=device, dtype=dtype) for _ in range(count)]

    def at(self, i):
        return self.x[i % len(self.x)], self.dy[i % len(self.dy)]


def measure(function, parameters, buffers, device, repeats):
    """Times of the forward and of the step."""

    def forward(i):
        with torch.no_grad():
            function(buffers.at(i)[0])

    def step(i):
        x, dy = buffers.at(i)
        for leaf in (x, *parameters):
            leaf.grad = None
        function(x).backward(dy)

    return {"forward": times(forward, device, repeats), "step": times(step, device, repeats)}


def record(problem, dtype, probability, name, pass_name, measured, frozen):
    m, k, n, r = problem
    base = quartiles(frozen)[1]
    low, ratio, high = (value / base for value in quartiles(measured))
    return {
        "m": m,
        "k": k,
        "n": n,
        "r": r,
        "dtype": dtype,
        "p": probability,
        "pass": pass_name,
        "system": name,
        "milliseconds": round(quartiles(measured)[1], 4),
        "ratio": round(ratio, 4),
        "ratio_quartiles": [round(low, 4), round(high, 4)],
        "rounds": len(measured),
    }


def records(problem, device, dtype, repeats, compiled):
    """All rows of one problem; a system that fails is reported and left out."""
    m, k, n, r = problem
    layer = Layer(k, n, r, device, getattr(torch, dtype))
    buffers = Buffers(m, k, n, device, layer.dtype)
    frozen = None
    for name, probability, function, parameters in systems(layer, compiled):
        try:
            measured = measure(function, parameters, buffers, device, repeats)
        except RuntimeError as error:
            print(f"FAILED {name} on {problem}: {error}", flush=True)
            if frozen is None:
                return
            continue
        frozen = frozen or measured
        for pass_name in ("forward", "step"):
            row = record(problem, SHORT[dtype], probability, name, pass_name, measured[pass_name], frozen[pass_name])
            print(json.dumps(row), flush=True)
            yield row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    parser.add_argument("--grid", choices=["default", "full", "smoke"], default="default")
    parser.add_argument("--dtype", choices=SHORT, default="bfloat16")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--seconds", type=float, default=900, help="start no new problem after this time")
    parser.add_argument("--commit", default="")
    parser.add_argument("--driver", default="")
    arguments = parser.parse_args()

    device = "cpu" if arguments.cpu else "cuda"
    document = {
        "backend": "torch",
        "device": "CPU" if arguments.cpu else torch.cuda.get_device_name(),
        "threads": torch.get_num_threads(),
        "commit": arguments.commit,
        "driver": arguments.driver,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "records": [],
    }
    end = time.monotonic() + arguments.seconds
    for problem in grid(arguments.grid):
        if time.monotonic() > end:
            print(f"out of time before {problem}", flush=True)
            break
        repeats = 5 if arguments.cpu else 30
        rows = records(problem, device, arguments.dtype, repeats, compiled=not arguments.cpu)
        document["records"] += rows
        # Written after each problem, so that an interrupted run leaves what it has.
        with open(arguments.out, "w", encoding="utf-8") as file:
            json.dump(document, file, indent=2)


if __name__ == "__main__":
    main()
