"""Finds NVIDIA's libraries where the loader does not look by itself."""

import glob
import os
import subprocess
import sys
import sysconfig
import time

# As the crate looks for them: src/cuda/driver/probe.rs.
NAMES = {
    "libcuda": ["libcuda.so", "libcuda.so.1"],
    "libcublasLt": ["libcublasLt.so", "libcublasLt.so.13", "libcublasLt.so.12"],
    "libcublas": ["libcublas.so", "libcublas.so.13", "libcublas.so.12"],
}


def cuda_folders(environment):
    """Folders of CUDA, the named ones first."""
    named = [environment[name] for name in ("CUDA_HOME", "CUDA_PATH") if environment.get(name)]
    return [*named, "/usr/local/cuda*", "/opt/cuda*"]


def site_folders():
    """Where Python packages lie, those of the running Python first."""
    own = [*sys.path, sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    others = ["/usr/local/lib/python3*/*-packages", "/usr/lib/python3*/*-packages", "/opt/*/lib/python3*/site-packages"]
    return [path for path in own if path] + others + ["/opt/*/.venv/lib/python3*/site-packages"]


def patterns(library, cuda, sites):
    """Folders that may have the library, as patterns, the likeliest first."""
    if library == "libcuda":
        return ["/usr/local/nvidia/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib/wsl/lib"]
    inside = ["lib64", "lib", "targets/x86_64-linux/lib"]
    found = [f"{folder}/{name}" for folder in cuda for name in inside]
    return found + [f"{folder}/nvidia/*/lib" for folder in sites] + ["/usr/lib/x86_64-linux-gnu"]


def folder_of(library, cuda, sites):
    """The first folder that has the library, and the file's name there."""
    for pattern in patterns(library, cuda, sites):
        # The newest version first.
        for folder in sorted(glob.glob(pattern), reverse=True):
            for name in NAMES[library]:
                if os.path.exists(f"{folder}/{name}"):
                    return os.path.realpath(folder), name
    return None


def loads(library, environment, end):
    """The file that the loader takes for the library, or None. In a process of its own, whose environment counts."""
    program = (
        "import ctypes, sys\n"
        "for name in sys.argv[2:]:\n"
        "    try: ctypes.CDLL(name)\n"
        "    except OSError: continue\n"
        "    maps = open('/proc/self/maps').read().split()\n"
        "    print(next((word for word in maps if sys.argv[1] + '.so' in word), name)); break\n"
    )
    command = [sys.executable, "-c", program, library, *NAMES[library]]
    try:
        answer = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=max(1.0, end - time.monotonic())
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.decode().strip() or None


def prepare(environment, end, cuda=None, sites=None):
    """Puts what the loader does not find on LD_LIBRARY_PATH. What each library is now; None if it was found nowhere."""
    cuda = cuda_folders(environment) if cuda is None else cuda
    sites = site_folders() if sites is None else sites
    found = {}
    for library in NAMES:
        found[library] = loads(library, environment, end)
        place = None if found[library] else folder_of(library, cuda, sites)
        if place:
            rest = environment.get("LD_LIBRARY_PATH")
            environment["LD_LIBRARY_PATH"] = ":".join(filter(None, [place[0], rest]))
            found[library] = loads(library, environment, end) or f"{place[0]}/{place[1]} is there but does not load"
    return found


def program(name, environment):
    """The path of one of NVIDIA's programs, or None."""
    places = environment.get("PATH", "").split(":")
    places += [f"{folder}/bin" for pattern in cuda_folders(environment) for folder in sorted(glob.glob(pattern), reverse=True)]
    places += sorted(glob.glob("/opt/nvidia/nsight-compute/*"), reverse=True)
    for place in places:
        path = os.path.join(place, name)
        if place and os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return None
