"""The gate on ptxas must close: each fault that it looks for is found, and a clean log passes."""

import importlib.machinery
import importlib.util
import unittest
from pathlib import Path

loader = importlib.machinery.SourceFileLoader("summarize", str(Path(__file__).with_name("summarize-ptxas")))
module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
loader.exec_module(module)

CLEAN = """\
ptxas info    : Compiling entry function 'shrink_bf16' for 'sm_80'
ptxas info    : Function properties for shrink_bf16
    8 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 64 registers, used 1 barriers, 512 bytes smem, 400 bytes cmem[0]
"""


class SummarizePtxas(unittest.TestCase):
    def test_a_clean_log_passes(self):
        self.assertEqual(module.summarize("shrink@80", CLEAN), ({"shrink_bf16": (64, 8)}, []))

    def test_spills_are_found(self):
        for old, new in [("0 bytes spill stores", "4 bytes spill stores"), ("0 bytes spill loads", "4 bytes spill loads")]:
            _, faults = module.summarize("shrink@80", CLEAN.replace(old, new))
            self.assertEqual(len(faults), 1)
            self.assertIn("shrink_bf16 spills", faults[0])

    def test_serialised_tensor_cores_are_found(self):
        for code in ["C7504", "C7508", "C7509", *(f"C75{number}" for number in range(10, 20))]:
            log = CLEAN + f"ptxas info    : ({code}) Potential Performance Loss: wgmma.mma_async instructions are serialized\n"
            self.assertEqual(len(module.summarize("shrink@90a", log)[1]), 1)

    def test_a_file_that_does_not_compile_is_found(self):
        self.assertEqual(len(module.summarize("shrink@80", "error: x\nFAILED TO COMPILE\n")[1]), 1)


if __name__ == "__main__":
    unittest.main()
