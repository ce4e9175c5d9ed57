"""The renderer, on rows written by hand."""

import unittest

import render


def row(system, ratio, pass_name="forward", p=0.0, m=16, quartiles=None):
    return {
        "m": m,
        "k": 4096,
        "n": 1024,
        "r": 8,
        "dtype": "bf16",
        "p": p,
        "pass": pass_name,
        "system": system,
        "milliseconds": 2.5 * ratio,
        "ratio": ratio,
        "ratio_quartiles": quartiles or [ratio, ratio],
        "rounds": 30,
    }


def document(*records, backend="cuda", device="Card", **more):
    return {"backend": backend, "device": device, "commit": "abc", "records": list(records), **more}


class Render(unittest.TestCase):
    def test_documents_of_one_device_share_a_table(self):
        ours = document(row("fused", 1.05), row("frozen", 1.0))
        peers = document(row("peft", 1.5, quartiles=[1.4, 1.6]), backend="torch", torch="2.0")
        self.assertEqual(
            render.render([ours, peers]).splitlines(),
            [
                "### Card",
                "",
                "- cuda, commit abc",
                "- torch, commit abc, torch 2.0",
                "",
                "**forward, bf16**",
                "",
                "| M | K × N | r | p | frozen (ms) | fused | peft |",
                "|---|---|---|---|---|---|---|",
                "| 16 | 4096 × 1024 | 8 | 0 | 2.5 | 1.05× | 1.50× (1.40–1.60) |",
            ],
        )

    def test_the_frozen_layer_stands_in_rows_with_dropout_too(self):
        lines = render.table([row("frozen", 1.0), row("fused", 1.1, p=0.1), row("unfused", 2.0)])
        self.assertEqual(lines[3], "| 16 | 4096 × 1024 | 8 | 0.1 | 2.5 | 1.10× |  |")

    def test_rows_are_ordered_by_number_and_passes_by_time(self):
        records = [row("frozen", 1.0, m=m, pass_name=name) for m in (512, 16) for name in ("step", "forward")]
        text = render.render([document(*records)])
        self.assertLess(text.index("**forward"), text.index("**step"))
        self.assertLess(text.index("| 16 |"), text.index("| 512 |"))

    def test_only_the_text_between_the_markers_is_replaced(self):
        text = f"before\n{render.BEGIN}\nold\n{render.END}\nafter\n"
        new = render.replace(text, "new\n")
        self.assertEqual(new, f"before\n{render.BEGIN}\n\nnew\n\n{render.END}\nafter\n")
        self.assertEqual(render.replace(new, "new\n"), new)
        with self.assertRaises(SystemExit):
            render.replace("no markers", "new")


if __name__ == "__main__":
    unittest.main()
