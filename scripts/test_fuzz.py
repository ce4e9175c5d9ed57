"""The fuzz gate must close: a run without feedback, a crash and a stop are found, and a clean log passes."""

import importlib.machinery
import importlib.util
import tempfile
import unittest
from pathlib import Path

loader = importlib.machinery.SourceFileLoader("fuzz", str(Path(__file__).with_name("fuzz")))
module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
loader.exec_module(module)

CLEAN = """\
INFO: seed corpus: files: 14 min: 1204b max: 31488b total: 173432b rss: 31Mb
#15\tINITED cov: 2459 ft: 3428 corp: 14/169Kb exec/s: 0 rss: 33Mb
#16\tNEW    cov: 2461 ft: 3432 corp: 15/188Kb lim: 31488 exec/s: 0 rss: 33Mb L: 19296/31488 MS: 1 CMP-
stat::number_of_executed_units: 24081
stat::average_exec_per_sec:     1505
"""


class Logs(unittest.TestCase):
    def test_a_clean_log_passes(self):
        self.assertEqual(module.summarize(CLEAN), ("24,081 runs, 1,505 a second, coverage 2459 → 2461", []))

    def test_a_crash_is_found(self):
        _, faults = module.summarize(CLEAN + "artifact_prefix='a/'; Test unit written to a/crash-1\nBase64: Qg==\n")
        self.assertEqual(faults, ["fails on a/crash-1"])

    def test_missing_feedback_is_found(self):
        warning = "WARNING: no interesting inputs were found so far. Is the code instrumented for coverage?\n"
        for log in (CLEAN + warning, CLEAN.replace("cov: ", "")):
            _, faults = module.summarize(log)
            self.assertEqual(len(faults), 1)
            self.assertIn("not instrumented", faults[0])

    def test_a_stop_is_found(self):
        _, faults = module.summarize(CLEAN.replace("stat::", ""))
        self.assertEqual(faults, ["stopped early"])


class Inputs(unittest.TestCase):
    def test_every_target_has_a_dictionary_and_seeds(self):
        binaries = {path.stem for path in (module.FUZZ / "fuzz_targets").glob("*.rs")}
        self.assertEqual(set(module.DICTIONARIES), binaries)
        for target, names in module.DICTIONARIES.items():
            self.assertTrue(any(len(seed) <= module.MAX_BYTES for seed in module.seeds(target)), target)
            for name in names:
                self.assertTrue((module.FUZZ / "dictionaries" / f"{name}.txt").is_file(), name)

    def test_corpora_leave_out_what_is_too_long(self):
        with tempfile.TemporaryDirectory() as folder:
            corpus = Path(folder) / "corpus"
            module.fill(corpus, [b"a", b"a", b"b", bytes(module.MAX_BYTES + 1)])
            self.assertEqual(sorted(path.read_bytes() for path in corpus.iterdir()), [b"a", b"b"])


if __name__ == "__main__":
    unittest.main()
