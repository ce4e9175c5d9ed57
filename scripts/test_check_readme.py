"""The gate on the READMEs must close: blocks are told apart, and one that fails is named with its line."""

import contextlib
import importlib.machinery
import importlib.util
import io
import tempfile
import unittest
from pathlib import Path

loader = importlib.machinery.SourceFileLoader("check_readme", str(Path(__file__).with_name("check-readme")))
module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
loader.exec_module(module)

README = """\
# Title

```sh
mkdir folder && cd folder
```

```text
not run
```

```sh clone
false
```

```sh
test "$(basename "$PWD")" = folder
```

```sh crate
test -e Cargo.toml
```
"""


def check(text):
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        readme = Path(folder) / "README.md"
        readme.write_text(text)
        return module.check(readme)


class Blocks(unittest.TestCase):
    def test_blocks_have_a_line_and_a_kind(self):
        found = [(line, kind) for line, kind, _ in module.blocks(README)]
        self.assertEqual(found, [(3, "sh"), (7, "text"), (11, "sh clone"), (15, "sh"), (19, "sh crate")])

    def test_the_repository_has_blocks_of_each_kind(self):
        kinds = {kind for name in module.READMES for _, kind, _ in module.blocks((module.ROOT / name).read_text())}
        self.assertLessEqual(set(module.RUN), kinds)


class Running(unittest.TestCase):
    def test_a_shell_stays_where_a_block_left_it(self):
        self.assertEqual(check(README), (3, None))

    def test_a_command_that_fails_is_named(self):
        ran, failure = check(README + "\n```sh\nfalse\ntrue\n```\n")
        self.assertEqual(ran, 3)
        self.assertIn("README.md:23: the block does not run as pasted", failure)

    def test_a_program_that_does_not_compile_is_named(self):
        ran, failure = check("```rust\nfn main() { nothing }\n```\n")
        self.assertEqual(ran, 0)
        self.assertIn("README.md:1:", failure)


if __name__ == "__main__":
    unittest.main()
