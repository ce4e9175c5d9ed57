"""Tests of scripts/mutate-kernels: which faults it makes, and how it knows them again."""

import importlib.machinery
import importlib.util
import sys
import unittest
from pathlib import Path

PATH = Path(__file__).with_name("mutate-kernels")
loader = importlib.machinery.SourceFileLoader("mutate_kernels", str(PATH))
spec = importlib.util.spec_from_loader("mutate_kernels", loader)
mutate = importlib.util.module_from_spec(spec)
sys.dont_write_bytecode = True
loader.exec_module(mutate)


def changes(source, operator):
    """What becomes of the source, by faults of one kind."""
    return [fault.apply(source) for fault in mutate.faults_of("test.cu", source) if fault.operator == operator]


class Faults(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.faults = mutate.all_faults()

    def test_binary_operators_and_not_templates(self):
        self.assertEqual(changes("x = a < b;", "relation"), ["x = a <= b;"])
        self.assertEqual(changes("Tile<T, 4> x;", "relation"), [])
        self.assertEqual(changes("T* const p = q;", "arithmetic"), [])
        self.assertEqual(changes("x = a % b;", "arithmetic"), ["x = a / b;"])

    def test_comments_strings_and_assertions_stay(self):
        for source in ("// a < 1\n", "#define A(b) \\\n    f(b, 1)\n", '#include "a/1.cuh"\n', "static_assert(sizeof(T) == 4, \"4\");", '"1 < 2";'):
            self.assertEqual(mutate.faults_of("test.cu", source), [], source)

    def test_literals_one_more_and_one_less(self):
        self.assertEqual(changes("x = 7u;", "literal"), ["x = 8u;", "x = 6u;"])
        self.assertEqual(changes("x = 0;", "literal"), ["x = 1;"])
        self.assertEqual(changes("x = 0x1F;", "literal"), ["x = 0x20;", "x = 0x1e;"])

    def test_conditions_always_and_never_hold(self):
        self.assertEqual(changes("if (a == b) c();", "condition"), ["if (true) c();", "if (false) c();"])
        self.assertEqual(changes("x = a < b ? c : d;", "condition"), ["x = true ? c : d;", "x = false ? c : d;"])

    def test_statements_are_left_out_and_declarations_are_not(self):
        self.assertEqual(changes("{ const int a = 1; f(a); }", "statement"), ["{ const int a = 1; ; }"])
        self.assertEqual(changes("for (int i = 0; i < n; ++i) f(i);", "statement"), ["for (int i = 0; i < n; ++i) ;"])
        self.assertEqual(changes("if (a) return;", "statement"), ["if (a) ;"])

    def test_arguments_are_swapped_and_parameters_are_not(self):
        self.assertEqual(changes("f(a, b + 1);", "swap"), ["f(b + 1, a);"])
        self.assertEqual(changes("void f(int a, int b) {}", "swap"), [])

    def test_indices_widths_and_directions(self):
        self.assertEqual(changes("x = a[i];", "index"), ["x = a[i + 1];", "x = a[i - 1];"])
        self.assertEqual(changes("x = int64_t(a);", "width"), ["x = int32_t(a);"])
        self.assertEqual(changes("x = v.row_stride;", "direction"), ["x = v.column_stride;"])

    def test_lines_keep_their_numbers(self):
        source = "f(a,\n  b);\ng();\n"
        for fault in mutate.faults_of("test.cu", source):
            self.assertEqual(fault.apply(source).count("\n"), source.count("\n"), fault.describe())

    def test_identities_survive_changes_elsewhere(self):
        before, after = "f(a, b);\nx = a < b;\n", "int other;\n\nf(b, a);\n  x = a < b;\n"

        def identities(source):
            return {fault.identity() for fault in mutate.faults_of("test.cu", source) if fault.operator == "relation"}

        self.assertEqual(identities(before), identities(after))

    def test_all_identities_differ(self):
        self.assertEqual(len({fault.identity() for fault in self.faults}), len(self.faults))
        self.assertGreater(len(self.faults), 3000)

    def test_each_kernel_file_has_faults(self):
        files = {fault.file for fault in self.faults}
        self.assertLessEqual({name for name in mutate.kernel_files() if name.endswith(".cu")}, files)


class Explanations(unittest.TestCase):
    def test_an_entry_covers_what_it_names(self):
        fault = {"file": "a.cu", "text": "x;", "operator": "swap", "change": "a → b", "nth": 0}
        self.assertEqual(mutate.explanation(fault, [{"file": "a.cu", "operator": "swap", "reason": "because"}]), "because")
        self.assertIsNone(mutate.explanation(fault, [{"file": "b.cu", "reason": "because"}]))


if __name__ == "__main__":
    unittest.main()
