"""What nvidia-smi says about the card: once, and all the while beside the work."""

import statistics
import subprocess

ABOUT = {
    "name": "name",
    "driver": "driver_version",
    "compute_capability": "compute_cap",
    "memory": "memory.total",
    "most_sm_mhz": "clocks.max.sm",
    "power_limit": "power.limit",
}
SAMPLED = ["clocks.sm", "clocks.mem", "temperature.gpu", "power.draw", "utilization.gpu", "clocks_event_reasons.active"]

# Why a card clocks lower than it could, by the bits of nvidia-smi. That it idles or was told so is no reason to doubt a time.
SLOWED = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "temperature",
    0x40: "hardware temperature",
    0x80: "power brake",
}


def about(environment, seconds):
    """The first card, or why there is none."""
    command = ["nvidia-smi", f"--query-gpu={','.join(ABOUT.values())}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds)
    except FileNotFoundError:
        return None, "nvidia-smi is not there"
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"nvidia-smi does not answer: {error}"
    lines = answer.stdout.splitlines()
    values = [value.strip() for value in lines[0].split(",")] if lines else []
    if answer.returncode or len(values) != len(ABOUT):
        said = (answer.stdout + answer.stderr).strip().splitlines()
        return None, f"nvidia-smi sees no GPU: {said[-1] if said else 'it said nothing'}"
    return dict(zip(ABOUT, values)), ""


class Samples:
    """Clocks of the card, a line a second."""

    def __init__(self, path, environment, preexec):
        self.path, self.process = path, None
        command = ["nvidia-smi", f"--query-gpu={','.join(SAMPLED)}", "--format=csv,noheader,nounits", "-lms", "1000"]
        with open(path, "wb") as file:
            try:
                self.process = subprocess.Popen(
                    command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, preexec_fn=preexec
                )
            except OSError:
                pass

    def mark(self):
        """Where the samples of now begin."""
        return self.path.stat().st_size

    def since(self, mark):
        """Clocks and what slowed the card, or None without samples of a busy card."""
        with open(self.path, "rb") as file:
            file.seek(mark)
            return summary(file.read().decode(errors="replace"))

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait()


def summary(text):
    clocks, slowed = [], set()
    for line in text.splitlines():
        try:
            sm, _, _, _, busy, reasons = (word.strip() for word in line.split(","))
            if int(busy) == 0:
                continue
            clocks.append(int(sm))
            bits = int(reasons, 16)
        except ValueError:
            continue
        slowed |= {what for bit, what in SLOWED.items() if bits & bit}
    if not clocks:
        return None
    return {"sm_mhz": [min(clocks), int(statistics.median(clocks)), max(clocks)], "slowed_by": sorted(slowed)}


def line(clocks):
    low, median, high = clocks["sm_mhz"]
    return f"clocks: {low} to {high} MHz, median {median}; slowed by {', '.join(clocks['slowed_by']) or 'nothing'}"
