"""A bundle holds no path of the machine that built it, unpacks by itself, and has tests behind every filter."""

import sys
import tarfile
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from gpu_fakes import TESTS, Bundle, load

sys.path.insert(0, str(Path(__file__).with_name("gpu") / "runner"))

from unpack import unpack  # noqa: E402

module = load("gpu-bundle")


class Packing(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.root = Path(temporary.name)
        self.content = self.root / "content"
        (self.content / "tests").mkdir(parents=True)
        (self.content / "tests/operations").write_text("#!/bin/sh\n")
        (self.content / "tests/operations").chmod(0o755)

    def test_it_unpacks_once_and_again_when_it_is_another(self):
        folder = self.root / "bundle"
        module.pack(self.content, folder)
        self.assertEqual(sorted(path.name for path in folder.iterdir()), ["files.tar.gz", "run.sh", "runner"])
        files = unpack(folder / "files.tar.gz")
        self.assertEqual(files.parent, folder)
        self.assertTrue((files / "tests/operations").stat().st_mode & 0o100)
        (files / "trace").touch()
        self.assertTrue((unpack(folder / "files.tar.gz") / "trace").exists())
        (self.content / "more").write_text("more")
        module.pack(self.content, self.root / "other")
        (self.root / "other/files.tar.gz").rename(folder / "files.tar.gz")
        files = unpack(folder / "files.tar.gz")
        self.assertTrue((files / "more").exists())
        self.assertFalse((files / "trace").exists())

    def test_it_unpacks_elsewhere_where_nothing_may_be_written(self):
        folder = self.root / "bundle"
        module.pack(self.content, folder)
        with mock.patch("unpack.tempfile.mkdtemp", side_effect=[OSError, str(self.root / "elsewhere")]):
            (self.root / "elsewhere").mkdir()
            self.assertEqual(unpack(folder / "files.tar.gz"), self.root / "elsewhere")
        self.assertTrue((self.root / "elsewhere/tests/operations").exists())

    def test_python_needs_nothing_to_unpack(self):
        module.pack(self.content, self.root / "bundle")
        with tarfile.open(self.root / "bundle/files.tar.gz", "r:gz") as tar:
            self.assertIn("./tests/operations", tar.getnames())

    def test_a_path_of_this_machine_is_refused(self):
        module.refuse_paths(self.content, {"/home/me/lora": "/lora-kernels"})
        (self.content / "tests/operations").write_bytes(b"\x7fELF\0/home/me/lora/kernels/skinny/expand.cu\0")
        module.refuse_paths(self.content, {"/home/me/lora": "/lora-kernels"})
        (self.content / "tests/operations").write_bytes(b"\x7fELF\0/home/me/lora/kernels\0")
        with self.assertRaisesRegex(SystemExit, "tests/operations contains the path /home/me/lora"):
            module.refuse_paths(self.content, {"/home/me/lora": "/lora-kernels"})

    def test_instructions_of_hopper_are_compiled_for_hopper_only(self):
        cases = {"90a": ["80", "90", "90a"], "80": ["80"], "89": ["80"], "100": ["80", "90"], "120": ["80", "90"]}
        for architecture, expected in cases.items():
            self.assertEqual([needed for needed in ("80", "90", "90a") if module.runs_on(needed, architecture)], expected)


class Tests(unittest.TestCase):
    """Which executables have tests of the GPU, by what they list."""

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.bundle = Bundle(Path(temporary.name))

    def messages(self, **tests):
        for name, names in tests.items():
            self.bundle.add(name, TESTS, tests=names)
        messages = [
            {"executable": str(self.bundle.content / name), "target": {"name": name, "kind": ["test"]}, "profile": {"test": True}}
            for name in tests
        ]
        return [{"reason": "build-finished"}, *messages]

    def test_only_those_with_the_word_travel(self):
        found = module.gpu_tests(self.messages(one=["a::gpu::x", "a::cpu::x"], two=["cuda::x"]))
        self.assertEqual({name: tests for name, (_, tests) in found.items()}, {"one": ["a::gpu::x"]})

    def test_a_missing_test_is_found_before_there_is_a_card(self):
        golden = ["golden::gpu::a", "b::gpu::same_bits_every_time", "b::gpu::small_integers_are_exact", "restore::gpu::x"]
        tests = {"operations": golden, "primitives": ["gpu::mma"], "finetune": ["gpu::x"]}
        self.check(tests)
        for change in ({"operations": golden[1:]}, {"primitives": ["cuda::mma"]}, {"finetune": []}):
            with self.assertRaises(SystemExit):
                self.check({**tests, **change})

    def check(self, tests):
        with mock.patch.object(module, "cargo", return_value=self.messages(**tests)), mock.patch("builtins.print"):
            module.check_tests()


if __name__ == "__main__":
    unittest.main()
