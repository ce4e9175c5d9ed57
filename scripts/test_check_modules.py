"""Tests of scripts/check-modules."""

import importlib.machinery
import importlib.util
import tempfile
import unittest
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent / "check-modules"
loader = importlib.machinery.SourceFileLoader("check_modules", str(SCRIPT))
module = importlib.util.module_from_spec(importlib.util.spec_from_loader("check_modules", loader))
loader.exec_module(module)


class CheckModules(unittest.TestCase):
    def graph(self, **files):
        with tempfile.TemporaryDirectory() as folder:
            for name, text in files.items():
                path = Path(folder) / f"{name.replace('__', '/')}.rs"
                path.parent.mkdir(exist_ok=True)
                path.write_text(text)
            return module.graph(Path(folder))

    def test_every_way_of_naming_a_module_counts(self):
        graph = self.graph(
            lib="mod a;\npub mod b;\npub(crate) mod c;\nmod d;\npub use b::{Thing, inner::Other as Another};\npub use self::c::Third;\n",
            a="use crate::{Thing, d::{self, x}};\nfn f() -> crate::Third {}\n",
            b="",
            b__inner="use super::y;\nuse crate::b::z;\n",
            c="use std::fmt;\n",
            d="use crate::{\n    Another,\n};\n",
        )
        self.assertEqual(graph, {"a": {"b", "c", "d"}, "b": set(), "c": set(), "d": {"b"}})

    def test_tests_comments_and_strings_do_not_count(self):
        graph = self.graph(
            main="mod a;\nmod b;\n",
            a="// crate::b\n/// [`crate::b`]\nconst X: &str = \"// crate::b\";\nconst Y: char = '\"';\n"
            "#[cfg(test)]\nmod tests {\n    use crate::b;\n}\n",
            b='const X: &str = r#"crate::a " "#;\nuse crate::a::X;\n',
        )
        self.assertEqual(graph, {"a": set(), "b": {"a"}})

    def test_circles_are_found(self):
        self.assertEqual(module.circles_of({"a": {"b"}, "b": {"c"}, "c": set()}), [])
        self.assertEqual(module.circles_of({"a": {"b"}, "b": {"c"}, "c": {"b"}}), [["b", "c"]])
        self.assertEqual(module.circles_of({"a": {"b", "c"}, "b": {"a"}, "c": {"c", "a"}}), [["a", "b"], ["a", "c"], ["c"]])


if __name__ == "__main__":
    unittest.main()
