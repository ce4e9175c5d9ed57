"""The gate on instructions must close: growth, cut vectors and missing kernels are found, and small changes pass."""

import copy
import importlib.machinery
import importlib.util
import unittest
from pathlib import Path

loader = importlib.machinery.SourceFileLoader("count", str(Path(__file__).with_name("count-instructions")))
module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
loader.exec_module(module)


def program(text):
    """Instructions from `@P0 OPCODE OPERANDS` lines; a label ends with a colon, and branches name labels."""
    lines, labels = [], {}
    for line in filter(None, map(str.strip, text.splitlines())):
        if line.endswith(":"):
            labels[line[:-1]] = len(lines)
        else:
            lines.append(line)
    instructions = []
    for line in lines:
        words = line.split()
        instruction = {"predicate": words.pop(0)} if words[0].startswith("@") else {}
        instruction["opcode"] = words[0]
        operands = [hex(labels[word] * 16) if word in labels else word for word in words[1:]]
        instructions.append({**instruction, "operands": ",".join(operands)})
    return instructions


def loop_sizes(text):
    return sorted(len(body) for body in module.natural_loops(program(text)))


KERNEL = {"whole": 1000, "loops": [500, 300], "stores": {"16": 16, "64": 4}}


def faults(**changes):
    """What is said of a kernel with these changes."""
    return list(module.growth_faults("kernel", KERNEL, {**copy.deepcopy(KERNEL), **changes}))


class Loops(unittest.TestCase):
    def test_a_backward_branch_is_a_loop(self):
        self.assertEqual(loop_sizes("MOV\nhead:\nFFMA\nIADD3\n@P0 BRA head\nEXIT\n"), [3])

    def test_a_loop_is_found_wherever_its_parts_lie(self):
        # The body lies behind the exit, and the branch back goes forward.
        self.assertEqual(loop_sizes("BRA head\ntail:\nFFMA\nBRA head\nhead:\nIADD3\n@P0 BRA tail\nEXIT\n"), [4])

    def test_inner_loops_are_parts_of_outer_ones(self):
        self.assertEqual(loop_sizes("outer:\nMOV\ninner:\nFFMA\n@P0 BRA inner\n@P1 BRA outer\nEXIT\n"), [2, 4])

    def test_branches_to_one_head_are_one_loop(self):
        self.assertEqual(loop_sizes("MOV\nhead:\nFFMA\n@P0 BRA head\nIADD3\n@P1 BRA head\nEXIT\n"), [4])

    def test_padding_is_no_loop_and_not_counted(self):
        text = "MOV\nEXIT\nend:\nBRA end\nNOP\nNOP\n"
        self.assertEqual(loop_sizes(text), [])
        self.assertEqual(module.count(program(text))["whole"], 2)

    def test_conditions_may_be_operands(self):
        self.assertEqual(loop_sizes("MOV\nhead:\nFFMA\nBRA.U UP0 head\nEXIT\n"), [2])

    def test_the_case_behind_a_jump_table_stands_for_all(self):
        self.assertEqual(loop_sizes("MOV\nhead:\nBRXU UR6 -0x20\nFFMA\nBRA end\nFMUL\nBRA end\nend:\n@P0 BRA head\nEXIT\n"), [4])

    def test_large_loops_without_inner_steps_count(self):
        step = "BAR.SYNC 0x0\n" + "FFMA\n" * 300
        text = f"chunk:\nMOV\nstep:\n{step}small:\nIADD3\n@P2 BRA small\n@P0 BRA step\n@P1 BRA chunk\nEXIT\n"
        self.assertEqual(module.count(program(text))["loops"], [304])


class Stores(unittest.TestCase):
    def test_stores_are_counted_by_their_bits(self):
        text = "STG.E R1\nSTG.E.64 R1\nSTG.E.EF.128 R1\nST.E.U16 R1\nSTG.E.U8 R1\nSTS.128 R1\nLDG.E.64 R1\nEXIT\n"
        self.assertEqual(module.count(program(text))["stores"], {"8": 1, "16": 1, "32": 1, "64": 1, "128": 1})

    def test_whole_vectors_pass(self):
        for kernel, stores in [
            ("weight_update_bf16", {"16": 16, "64": 4}),
            ("delta_f32", {"32": 16, "128": 4}),
            ("expand_bf16_rank16", {"16": 8, "128": 1}),
            ("shrink_bf16_rank16", {"32": 99}),
        ]:
            self.assertEqual(list(module.vector_faults(kernel, stores)), [])

    def test_vectors_in_parts_are_found(self):
        for kernel, stores in [
            ("weight_update_bf16", {"16": 16, "32": 8}),
            ("weight_update_bf16", {"16": 16, "32": 2, "64": 3}),
            ("weight_update_f32", {"32": 32}),
            ("delta_f32", {"32": 20, "128": 3}),
            ("expand_f32_rank64", {"32": 12, "128": 1}),
        ]:
            self.assertEqual(len(list(module.vector_faults(kernel, stores))), 1, kernel)


class Gate(unittest.TestCase):
    def test_the_same_passes(self):
        self.assertEqual(faults(), [])

    def test_four_percent_pass_and_six_fail(self):
        self.assertEqual(faults(whole=1040), [])
        self.assertEqual(len(faults(whole=1060)), 1)
        self.assertEqual(faults(loops=[520, 312]), [])
        self.assertEqual(len(faults(loops=[530, 300])), 1)
        self.assertEqual(len(faults(loops=[500, 318])), 1)

    def test_shrinking_passes(self):
        self.assertEqual(faults(whole=500, loops=[100, 50], stores={"16": 8, "64": 6}), [])

    def test_another_number_of_loops_fails(self):
        self.assertEqual(len(faults(loops=[500])), 1)
        self.assertEqual(len(faults(loops=[500, 300, 200])), 1)

    def test_fewer_wide_or_more_narrow_stores_fail(self):
        for stores in [{"16": 16, "64": 3}, {"16": 17, "64": 4}, {"16": 16, "32": 1, "64": 4}]:
            self.assertEqual(len(faults(stores=stores)), 1, stores)

    def test_missing_kernels_fail_on_either_side(self):
        table = {"90a": {"file": {"kernel": KERNEL}}}
        self.assertEqual(list(module.compare(table, {("90a", "file"): {"kernel": KERNEL}})), [])
        [fault] = module.compare(table, {("90a", "file"): {}})
        self.assertIn("is gone", fault)
        [fault] = module.compare({}, {("90a", "file"): {"kernel": KERNEL}})
        self.assertIn("not in the table", fault)
        self.assertEqual(len(module.gone_files(table, ["file"])), 0)
        self.assertEqual(len(module.gone_files(table, ["other"])), 1)

    def test_a_dropped_instruction_is_found(self):
        self.assertEqual(list(module.needed_faults("moved_registers_in_cluster", ["USETMAXREG.DEALLOC"])), [])
        self.assertEqual(len(list(module.needed_faults("moved_registers_in_cluster", ["EXIT"]))), 1)


class CommittedTable(unittest.TestCase):
    def setUp(self):
        self.compiler, self.table = module.read_table()

    def test_it_is_as_the_script_writes_it(self):
        self.assertEqual(module.TABLE.read_text(), module.format_table(self.compiler, self.table))

    def test_the_page_shows_it(self):
        page = module.PAGE.read_text()
        self.assertEqual(page, module.replace_part(page, module.page_table(self.compiler, self.table)))

    def test_vectors_are_whole_in_it(self):
        for files in self.table.values():
            for kernels in files.values():
                for kernel, of in kernels.items():
                    self.assertEqual(list(module.vector_faults(kernel, of["stores"])), [])


if __name__ == "__main__":
    unittest.main()
