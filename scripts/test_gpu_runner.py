"""The runner of a bundle, with a card, executables and tools that are not there: what it says and leaves is right each time."""

import json
import os
import signal
import sys
import tarfile
import tempfile
import time
import unittest
from pathlib import Path

from gpu_fakes import BENCH, SANITIZER, TESTS, Bundle, compile_library

sys.path.insert(0, str(Path(__file__).with_name("gpu") / "runner"))

import card  # noqa: E402
import findings  # noqa: E402
import libraries  # noqa: E402
import libtest  # noqa: E402
import summary  # noqa: E402
import timebox  # noqa: E402
from results import MOST_LOG_BYTES, Results  # noqa: E402


class Runs(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.bundle = Bundle(Path(temporary.name))

    def check_files(self):
        """Whole, few and small, whatever happened."""
        names = sorted(path.name for path in self.bundle.out.iterdir())
        self.assertLessEqual(len(names), 4, names)
        self.assertTrue({"results.json", "logs.tar.gz"} <= set(names), names)
        self.assertTrue(all(path.stat().st_size < 8 << 20 for path in self.bundle.out.iterdir()))
        with tarfile.open(self.bundle.out / "logs.tar.gz") as tar:
            logs = {member.name: tar.extractfile(member).read() for member in tar}
        document = json.loads((self.bundle.out / "results.json").read_text())
        return document, {stage["name"]: stage for stage in document["stages"]}, logs

    def run_all(self, *arguments):
        code, output = self.bundle.run(*arguments)
        return code, output, *self.check_files()

    def test_everything_passes(self):
        self.bundle.add("consumer", "#!/bin/sh\necho GPU: as worked out by hand\n")
        for name in ("primitives", "operations", "others"):
            self.bundle.add(f"tests/{name}", TESTS, tests=["a::gpu::one", "a::cpu::one", "golden::gpu::two"])
        self.bundle.add("examples/finetune", "#!/bin/sh\n")
        self.bundle.add("benches/kernels", BENCH, record={"copy_gb_per_s": 3000, "kernels": KERNELS, "products": PRODUCTS})
        self.bundle.add("benches/overhead", BENCH, record={"records": RATIOS, "not_run": ["1 × 2 × 3"]})
        self.bundle.add("benches/sweep", BENCH, record=SWEEP)
        self.bundle.tool("compute-sanitizer", SANITIZER)
        self.bundle.libraries("libcuda.so.1", "libcublasLt.so.13", "libcublas.so.13")
        code, output, document, stages, logs = self.run_all("--budget", "60")
        self.assertEqual(document["gpu"]["name"], "Fake H100")
        self.assertTrue(document["finished"])
        self.assertEqual(document["commit"], "0123456789ab")
        for name in ("consumer", "primitives", "operations", "kernels", "overhead-graphs", "overhead", "finetune"):
            self.assertEqual(stages[name]["status"], "passed", stages[name])
            self.assertIn("seconds", stages[name])
        self.assertEqual(stages["consumer"]["says"], "GPU: as worked out by hand")
        # All executables but the primitives, with the tests that have the word in their names.
        self.assertEqual(stages["operations"]["says"], "operations: 2 of 2 tests passed; others: 2 of 2 tests passed")
        self.assertEqual(stages["overhead"]["says"], "ran to its end, 1 problems not run")
        self.assertEqual(stages["sweep"]["status"], "passed", stages["sweep"])
        self.assertEqual(stages["counters"]["says"], "ncu is not there")
        self.assertEqual(stages["racecheck"]["status"], "passed")
        self.assertIn("0 errors", stages["racecheck"]["says"])
        self.assertEqual(code, 0)
        lines = output.splitlines()
        # After each stage a line, then the summary.
        shown = lines[lines.index("") + 1 :]
        self.assertEqual([line.split()[0] for line in lines[: lines.index("")]], list(stages))
        self.assertLessEqual(len(shown), 60)
        self.assertEqual(document["libraries"]["libcublasLt"], str(self.bundle.root / "lib/libcublasLt.so.13"))
        self.assertIn("Fake H100, driver 580.1; commit 0123456789ab", shown[0])
        self.assertIn("  a copy: 3000 GB/s", shown)
        self.assertIn("   20% of a copy: expand_bf16, p 0, 8 × 8 × 8, r 4", shown)
        self.assertIn("  forward_beta1 against β = 0: 1.100 to 1.300, median 1.200", shown)
        self.assertIn("  WRONG RESULTS: shrink_bad", shown)
        self.assertIn("  shrink (forward, p 0): shrink_best takes 0.900 of shrink_bf16 on 2 problems", shown)
        self.assertIn("  clocks: 1980 to 1980 MHz, median 1980; slowed by nothing", shown)
        self.assertIn("  8 × 8 × 8, r 4, fused: forward p 0 1.100, step p 0 1.200", shown)
        record = json.loads(logs["kernels.json"])
        self.assertEqual(record["variables"]["LORA_BENCH_DTYPE"], "bf16")
        self.assertEqual(record["variables"]["LORA_DRIVER"], "580.1")
        self.assertEqual(record["variables"]["LORA_KERNELS_REQUIRE_GPU"], "1")
        self.assertEqual(json.loads(logs["overhead-graphs.json"])["variables"]["LORA_BENCH_GRAPHS"], "1")

    def test_what_fails_hangs_and_crashes_costs_the_others_nothing(self):
        names = ["one", "hangs", "crashes", "fails", "poisons", "two", "three"]
        tests = [f"m::gpu::{name}" for name in names]
        self.bundle.add("tests/primitives", TESTS, tests=tests)
        self.bundle.add("tests/operations", TESTS, tests=["m::gpu::fails", "m::gpu::passes"])
        code, output, document, stages, logs = self.run_all("--budget", "90", "--silence", "2", "primitives", "operations")
        self.assertEqual(code, 1)
        says = stages["primitives"]["says"]
        self.assertEqual(says, "primitives: 3 of 7 tests passed, 2 failed, 1 hung, 1 crashed")
        self.assertEqual(
            sorted(stages["primitives"]["faults"]),
            [
                "crashed: m::gpu::crashes (exit status -11)",
                "failed: m::gpu::fails: 1 is not 2 (src/x.rs:1:2:)",
                "failed: m::gpu::poisons: CUDA_ERROR_ILLEGAL_ADDRESS (src/x.rs:1:2:)",
                "hung: m::gpu::hangs",
            ],
        )
        self.assertEqual(stages["operations"]["says"], "operations: 1 of 2 tests passed, 1 failed")
        self.assertIn("--- primitives", output)
        self.assertEqual(list(stages), ["probe", "primitives", "operations"])

    def test_a_crash_after_the_last_test_is_a_failure(self):
        self.bundle.add("tests/primitives", TESTS, tests=["gpu::one", "gpu::crashes_late"])
        _, _, _, stages, _ = self.run_all("--budget", "60", "primitives")
        self.assertEqual(stages["primitives"]["faults"], ["crashed: after the last test (exit status -11)"])

    def test_tests_behind_one_that_takes_all_the_time_are_late_not_wrong(self):
        self.bundle.add("tests/operations", TESTS, tests=["gpu::hangs"])
        self.bundle.add("tests/others", TESTS, tests=["gpu::one"])
        _, _, _, stages, _ = self.run_all("--budget", "60", "operations=3")
        self.assertEqual(stages["operations"]["status"], "out of time")
        self.assertIn("others: not run, no time left", stages["operations"]["says"])

    def test_a_filter_that_matches_nothing_is_a_failure(self):
        self.bundle.add("tests/primitives", TESTS, tests=["cuda::one", "emulated::two"])
        _, _, _, stages, _ = self.run_all("--budget", "30", "primitives")
        self.assertEqual(stages["primitives"]["status"], "failed")
        self.assertIn("ran no test", stages["primitives"]["says"])

    def test_a_stage_that_hangs_costs_its_own_box(self):
        self.bundle.add("consumer", "#!/bin/sh\ntrap '' TERM\necho waiting\nwhile true; do sleep 1; done\n")
        self.bundle.add("examples/finetune", "#!/bin/sh\n")
        start = time.monotonic()
        _, _, _, stages, logs = self.run_all("--budget", "60", "consumer=1", "finetune")
        self.assertLess(time.monotonic() - start, 20)
        self.assertEqual(stages["consumer"]["status"], "out of time")
        self.assertEqual(stages["finetune"]["status"], "passed")
        self.assertIn(b"waiting", logs["consumer.log"])

    def test_the_budget_is_never_exceeded_and_the_rest_is_listed(self):
        self.bundle.add("consumer", "#!/bin/sh\ntrap '' TERM\nwhile true; do sleep 1; done\n")
        self.bundle.add("tests/primitives", TESTS, tests=["gpu::one"])
        start = time.monotonic()
        _, output, document, stages, _ = self.run_all("--budget", "11")
        self.assertLess(time.monotonic() - start, 11)
        self.assertLess(document["seconds"], 11)
        self.assertEqual(len(stages), 14)
        # Where the machine is busy the probe takes what there is.
        self.assertIn(stages["consumer"]["status"], ("out of time", "not run"))
        left_out = [stage for stage in document["stages"] if stage.get("says") == "no time left"]
        self.assertGreaterEqual(len(left_out), 12)
        self.assertIn("peers            not run", output)

    def test_a_flood_fills_nothing(self):
        self.bundle.add("consumer", "#!/bin/sh\necho first\nyes flood | head -c 30000000\necho last\n")
        _, _, _, stages, logs = self.run_all("--budget", "60", "consumer")
        self.assertEqual(stages["consumer"]["says"], "last")
        log = logs["consumer.log"]
        self.assertLess(len(log), 2 * timebox.LOG_BYTES + 100)
        self.assertIn(b"first", log)
        self.assertIn(b"bytes left out", log)

    def test_a_runner_that_is_killed_leaves_what_it_knew(self):
        self.bundle.add("consumer", "#!/bin/sh\necho done\n")
        self.bundle.add("tests/primitives", TESTS, tests=["gpu::hangs"])
        process = self.bundle.start("--budget", "60")
        line = process.stdout.readline() + process.stdout.readline()
        self.assertIn("consumer", line)
        hanging = self.bundle.root / "hanging"
        while not hanging.exists():
            time.sleep(0.02)
        process.kill()
        process.wait()
        process.stdout.close()
        document, stages, logs = self.check_files()
        self.assertFalse(document["finished"])
        self.assertEqual(stages["consumer"]["status"], "passed")
        self.assertEqual(stages["primitives"]["status"], "killed in this stage")
        self.assertIn(b"done", logs["consumer.log"])
        # What ran dies with the runner.
        child = int(hanging.read_text())
        for _ in range(100):
            if not alive(child):
                break
            time.sleep(0.02)
        self.assertFalse(alive(child))

    def test_a_runner_that_is_asked_to_end_does(self):
        self.bundle.add("tests/primitives", TESTS, tests=["gpu::hangs"])
        process = self.bundle.start("--budget", "60", "primitives")
        while not (self.bundle.root / "hanging").exists():
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        output = process.communicate()[0]
        self.assertEqual(process.returncode, 1)
        self.assertIn("interrupted by SIGTERM", output)
        _, stages, logs = self.check_files()
        self.assertEqual(stages["primitives"]["status"], "killed in this stage")
        self.assertIn(b"gpu::hangs", logs["primitives.log"])

    def test_errors_of_the_sanitizer_fail_the_stage_though_the_tests_pass(self):
        for name in ("operations", "primitives"):
            self.bundle.add(f"tests/{name}", TESTS, tests=["golden::gpu::one"])
        self.bundle.tool("compute-sanitizer", SANITIZER.replace("0 errors", "3 errors"))
        _, _, _, stages, _ = self.run_all("--budget", "60", "memcheck")
        self.assertEqual(stages["memcheck"]["status"], "failed")
        self.assertEqual(stages["memcheck"]["errors"], 9)
        self.assertIn("9 errors; operations", stages["memcheck"]["says"])

    def test_a_sanitizer_that_does_not_begin_is_a_failure(self):
        for name in ("operations", "primitives"):
            self.bundle.add(f"tests/{name}", TESTS, tests=["golden::gpu::one"])
        self.bundle.tool("compute-sanitizer", '#!/bin/sh\nwhile [ "$1" != 20 ]; do shift; done; shift; exec "$@"\n')
        _, _, _, stages, _ = self.run_all("--budget", "60", "racecheck")
        self.assertEqual(stages["racecheck"]["status"], "failed")
        self.assertIn("did not begin", stages["racecheck"]["says"])

    def test_no_card(self):
        self.bundle.tool("nvidia-smi", "#!/bin/sh\necho No devices were found\nexit 6\n")
        self.bundle.add("tests/primitives", TESTS, tests=["gpu::fails"])
        code, _, document, stages, _ = self.run_all("--budget", "30", "primitives")
        self.assertEqual(code, 1)
        self.assertIsNone(document["gpu"])
        self.assertEqual(stages["probe"]["says"], "nvidia-smi sees no GPU: No devices were found")
        self.assertEqual(stages["primitives"]["status"], "failed")

    def test_words_that_are_no_stage_are_refused(self):
        for words in (["all"], ["kernels=x"], ["--budget", "long"]):
            code, output = self.bundle.run(*words)
            self.assertEqual(code, 2, output)
        code, output = self.bundle.run("--list")
        self.assertEqual((code, len(output.splitlines())), (0, 14))


def alive(process):
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False


def row(kernel, operation, share, microseconds):
    shape = {"m": 8, "k": 8, "n": 8, "r": 4, "p": 0.0}
    return {"kernel": kernel, "operation": operation, "of_copy": share, "microseconds": microseconds, **shape}


KERNELS = [
    row("shrink_bf16", "shrink", 0.8, 1.0),
    row("expand_bf16", "expand", 0.2, 2.0),
]
PRODUCTS = [
    {"product": "product_forward_beta0", "to_beta0": 1.0},
    {"product": "product_forward_beta1", "to_beta0": 1.1},
    {"product": "product_forward_beta1", "to_beta0": 1.3},
]
WINNER = {"operation": "shrink", "pass": "forward", "p": 0.0, "planned_kernel": "shrink_bf16"}
SWEEP = {
    "winners": [{**WINNER, "kernel": "shrink_best", "to_planned": 0.9, "problems": 2}],
    "rankings": [{"wrong": [{"kernel": "shrink_bad", "why": "3 is not 4"}]}],
}
RATIOS = [
    {"m": 8, "k": 8, "n": 8, "r": 4, "p": 0, "system": "fused", "pass": name, "ratio": ratio}
    for name, ratio in [("forward", 1.1), ("step", 1.2)]
]


class Parts(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)

    def test_libraries_are_found_in_cudas_folder_and_in_packages(self):
        cuda, site = self.folder / "cuda-13.0", self.folder / "site-packages"
        places = [str(self.folder / "cuda*")], [str(site)]
        self.assertIsNone(libraries.folder_of("libcublasLt", *places))
        inside = site / "nvidia/cu13/lib"
        inside.mkdir(parents=True)
        (inside / "libcublasLt.so.13").touch()
        self.assertEqual(libraries.folder_of("libcublasLt", *places), (str(inside), "libcublasLt.so.13"))
        # CUDA's own folder comes first, and its newest version.
        for version in ("12.8", "13.0"):
            lib = self.folder / f"cuda-{version}/targets/x86_64-linux/lib"
            lib.mkdir(parents=True)
            (lib / "libcublasLt.so").touch()
        found = libraries.folder_of("libcublasLt", *places)
        self.assertEqual(found, (str(cuda / "targets/x86_64-linux/lib"), "libcublasLt.so"))

    def test_what_does_not_load_by_itself_goes_on_the_path(self):
        lib = self.folder / "site/nvidia/cublas/lib"
        lib.mkdir(parents=True)
        # Any library will do.
        compile_library(lib / "libcublasLt.so.12")
        (lib / "libcublas.so.12").write_text("not a library")
        environment = {**os.environ, "LD_LIBRARY_PATH": "/elsewhere"}
        found = libraries.prepare(environment, time.monotonic() + 60, [], [str(self.folder / "site")])
        self.assertEqual(found["libcublasLt"], str(lib / "libcublasLt.so.12"))
        self.assertIn("does not load", found["libcublas"])
        self.assertIn(str(lib), environment["LD_LIBRARY_PATH"].split(":"))
        self.assertIn("/elsewhere", environment["LD_LIBRARY_PATH"].split(":"))

    def test_a_log_keeps_the_beginning_and_the_end(self):
        log = timebox.Log(self.folder / "log", half=10)
        for word in (b"01234", b"56789abcdef", b"ghi", b"jklmnopqrstuv"):
            log.write(word)
        self.assertEqual(log.text(), b"0123456789\n[12 bytes left out]\nmnopqrstuv")
        self.assertEqual(log.last_line(), "mnopqrstuv")

    def test_lines_are_cut_where_they_end(self):
        lines = timebox.Lines()
        self.assertEqual(lines.add(b"a\nb"), ["a"])
        self.assertEqual(lines.add(b"c\n\n"), ["bc", ""])
        lines.add(b"x" * (1 << 20))
        self.assertEqual(len(lines.partial), timebox.Lines.LONGEST)

    def test_verdicts_are_read_though_others_write_between(self):
        tests = libtest.Tests(names=["gpu::a", "gpu::b", "gpu::c", "gpu::d"])
        listener = libtest.Listener(tests, True)
        said = [
            "running 4 tests",
            "test gpu::a ... ========= Invalid __global__ read",
            "ok",
            "test gpu::b - should panic ... ok",
            "ok",
            "test gpu::c ... ignored, needs two cards",
            "test gpu::unknown ... FAILED",
        ]
        self.assertFalse(any([listener(line, True) for line in said]))
        listener("thread 'gpu::d' (42) panicked at src/x.rs:1:2:", False)
        listener("Cuda { call: \"cuLaunchKernel\" }", False)
        self.assertTrue(listener("test gpu::d ... FAILED", True))
        self.assertEqual(tests.passed, {"gpu::a", "gpu::b"})
        self.assertEqual(tests.failed, {"gpu::d": 'Cuda { call: "cuLaunchKernel" } (src/x.rs:1:2:)'})

    def test_what_failed_in_the_same_way_is_one_line(self):
        failed = {f"gpu::{name}": f"no driver for gpu::{name}" for name in "abc"}
        tests = libtest.Tests(names=[*failed, "gpu::d"], failed={**failed, "gpu::d": "1 is not 2"})
        expected = ["failed: gpu::a and 2 others: no driver for …", "failed: gpu::d: 1 is not 2"]
        self.assertEqual(tests.faults(), expected)

    def test_the_summary_is_short_whatever_failed(self):
        stage = {"name": "a", "status": "failed", "seconds": 1.0, "says": "x" * 500, "lines": ["y" * 500] * 50}
        document = {"commit": "c", "seconds": 1.0, "budget": 2, "gpu": None, "stages": [stage] * 14}
        lines = summary.of_all(document)
        self.assertEqual(len(lines), 60)
        self.assertIn("lines more", lines[-1])
        self.assertTrue(all(len(line) <= summary.WIDTH for line in lines))

    def test_logs_that_cannot_be_compressed_stay_small(self):
        out, work = self.folder / "out", self.folder / "work"
        out.mkdir()
        work.mkdir()
        for name in range(4):
            (work / f"{name}.log").write_bytes(os.urandom(MOST_LOG_BYTES // 3))
        results = Results(out, work, {})
        results.save()
        self.assertLess((out / "logs.tar.gz").stat().st_size, 8 << 20)
        self.assertEqual(len(json.loads((out / "results.json").read_text())["left_out"]), 2)

    def test_clocks_are_those_of_a_busy_card(self):
        lines = ["1980, 2619, 40, 300.0, 99, 0x0000000000000004", "345, 2619, 30, 80.0, 0, 0x1", "nonsense"]
        text = "\n".join([*lines, "1700, 2619, 50, 700.0, 80, 0x60", ""])
        expected = {"sm_mhz": [1700, 1840, 1980], "slowed_by": ["hardware temperature", "power cap", "temperature"]}
        self.assertEqual(card.summary(text), expected)
        self.assertIsNone(card.summary("345, 2619, 30, 80.0, 0, 0x1\n"))

    def test_the_worst_kernels_are_those_of_the_first_problem(self):
        others = [{**row("pack_bf16", "pack", 0.01, 1.0), "m": 1}]
        self.assertEqual(findings.worst_kernels({"kernels": KERNELS + others}), ["expand_bf16", "shrink_bf16"])
        self.assertEqual(findings.worst_kernels(None), [])

    def test_findings_are_looked_for_where_the_benchmarks_write_them(self):
        root = Path(__file__).resolve().parent.parent
        written = {
            "kernels": ["benches/common/cuda/kernels.rs"],
            "products": ["benches/common/cuda/kernels.rs", "benches/common/products.rs"],
            "ratios": ["crates/measure/src/record.rs"],
            "sweep": ["benches/common/sweep/ranking.rs"],
        }
        read = {
            "kernels": ["kernels", "copy_gb_per_s", "of_copy", "kernel", "p", "m", "k", "n", "r"],
            "products": ["products", "product", "to_beta0", "product_{pass}_beta0"],
            "ratios": ["records", "system", "pass", "p", "ratio", "m", "k", "n", "r"],
            "sweep": ["winners", "rankings", "wrong", "operation", "pass", "p", "kernel", "to_planned", "planned_kernel"],
        }
        for record, files in written.items():
            text = "".join((root / name).read_text() for name in files)
            for field in read[record]:
                self.assertIn(f'"{field}"', text, record)

    def test_errors_of_a_sanitizer_that_was_stopped_count(self):
        self.assertEqual(findings.sanitizer_errors("========= Invalid __global__ read of size 4\n"), 1)
        self.assertEqual(findings.sanitizer_errors("========= ERROR SUMMARY: 2 errors\n"), 2)
        racecheck = "========= RACECHECK SUMMARY: 3 hazards displayed (1 error, 2 warnings)\n"
        self.assertEqual(findings.sanitizer_errors(racecheck), 3)


if __name__ == "__main__":
    unittest.main()
