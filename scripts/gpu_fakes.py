"""Executables and tools that are not there, for the tests of the runner."""

import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parent


def load(name):
    """A script without extension as a module."""
    loader = importlib.machinery.SourceFileLoader(name.replace("-", "_"), str(SCRIPTS / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


NVIDIA_SMI = """\
#!/bin/sh
case "$*" in
*-lms*) while true; do echo 1980, 2619, 40, 300.0, 99, 0x0; sleep 0.05; done ;;
*) echo Fake H100, 580.1, 9.0, 81559 MiB, 1980 MHz, 700.00 W ;;
esac
"""

# Finds the program behind the options as the real one does.
SANITIZER = """\
#!/bin/sh
echo ========= COMPUTE-SANITIZER
while [ "$1" != 20 ]; do shift; done
shift
"$@"
status=$?
echo ========= ERROR SUMMARY: 0 errors
exit $status
"""

# A test executable as Rust makes it. What a test does is its name.
TESTS = """\
#!PYTHON
import os, signal, sys, time
TESTS = VALUE
words = [word for word in sys.argv[1:] if not word.startswith("--")]
exact, nocapture = "--exact" in sys.argv, "--nocapture" in sys.argv
chosen = [test for test in TESTS if any(test == word if exact else word in test for word in words)]
if "--list" in sys.argv:
    print(*(f"{test}: test" for test in chosen), sep="\\n")
    print(f"\\n{len(chosen)} tests, 0 benchmarks")
    sys.exit()
failures, poisoned = {}, False
print(f"running {len(chosen)} tests")
for test in chosen:
    print(f"test {test} ... ", end="", flush=True)
    name = test.split("::")[-1]
    if name == "hangs":
        with open(os.path.join("ROOT", "hanging.part"), "w") as file:
            file.write(str(os.getpid()))
        os.replace(os.path.join("ROOT", "hanging.part"), os.path.join("ROOT", "hanging"))
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(1000)
    if name == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    poisoned |= name == "poisons"
    why = "CUDA_ERROR_ILLEGAL_ADDRESS" if poisoned else "1 is not 2" if name == "fails" else None
    if why:
        failures[test] = f"thread '{test}' (7) panicked at src/x.rs:1:2:\\n{why}"
        if nocapture:
            print(failures[test], file=sys.stderr, flush=True)
    print("FAILED" if why else "ok", flush=True)
if failures and not nocapture:
    print("\\nfailures:\\n")
    for test, why in failures.items():
        print(f"---- {test} stdout ----\\n{why}\\n")
if any(test.endswith("crashes_late") for test in chosen):
    os.kill(os.getpid(), signal.SIGSEGV)
sys.exit(101 if failures else 0)
"""

# A benchmark: it writes its record and what it was told.
BENCH = """\
#!PYTHON
import json, os, sys, time
assert sys.argv[1:] == ["--bench"]
# Long enough to be sampled.
clocks = os.path.join(os.path.dirname(os.environ["LORA_BENCH_JSON"]), "clocks.csv")
size = os.path.getsize(clocks)
while os.path.getsize(clocks) == size:
    time.sleep(0.01)
record = json.loads('''VALUE''')
record["variables"] = {name: value for name, value in os.environ.items() if name.startswith("LORA_")}
with open(os.environ["LORA_BENCH_JSON"], "w") as file:
    json.dump(record, file)
print("a table")
"""


def compile_library(path):
    """An empty library, which loads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cc", "-shared", "-x", "c", "-o", path, "/dev/null"], check=True)


class Bundle:
    """A bundle of fakes in a folder."""

    def __init__(self, root):
        self.root, self.content, self.out = root, root / "content", root / "out"
        self.content.mkdir()
        (self.root / "bin").mkdir()
        self.add("commit", "0123456789ab\n")
        self.tool("nvidia-smi", NVIDIA_SMI)

    def add(self, place, text, tests=None, record=None):
        value = repr(tests) if record is None else json.dumps(record)
        text = text.replace("PYTHON", sys.executable).replace("VALUE", value).replace("ROOT", str(self.root))
        self._write(self.content / place, text)

    def tool(self, name, text):
        self._write(self.root / "bin" / name, text)

    def _write(self, path, text):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def libraries(self, *names):
        for name in names:
            compile_library(self.root / "lib" / name)

    def start(self, *arguments):
        load("gpu-bundle").pack(self.content, self.root / "bundle")
        command = [self.root / "bundle/run.sh", *arguments, "--out", self.out]
        environment = {**os.environ, "PATH": f"{self.root}/bin:{os.environ['PATH']}", "LD_LIBRARY_PATH": f"{self.root}/lib"}
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def run(self, *arguments):
        """Exit status and output."""
        process = self.start(*arguments)
        output = process.communicate()[0]
        return process.returncode, output
