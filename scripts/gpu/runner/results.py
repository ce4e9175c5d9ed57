"""What is known so far, as two files that are right at any moment: results.json and logs.tar.gz."""

import io
import json
import os
import tarfile
import time

# All logs and records together, before compression: the tar stays below this even if nothing can be compressed.
MOST_LOG_BYTES = 7 << 20
# Between two savings while a stage runs.
SECONDS = 10.0
UNFINISHED = "killed in this stage"


class Results:
    """The folders are made by the caller."""

    def __init__(self, out, work, about):
        self.out, self.work = out, work
        self.document = {**about, "finished": False, "stages": []}
        self.logs, self.saved = [], 0.0

    def start(self, name):
        """A stage begins: should the runner be killed now, that is what the file says."""
        self.document["stages"].append({"name": name, "status": UNFINISHED})
        self.save()

    def end(self, stage):
        """In the place of the stage that began last."""
        self.document["stages"][-1] = stage
        self.save()

    def add(self, stage):
        """A stage that never began."""
        self.document["stages"].append(stage)

    def tick(self):
        if time.monotonic() - self.saved > SECONDS:
            self.save()

    def save(self):
        for log in self.logs:
            log.save()
        archive, self.document["left_out"] = self._archive()
        self._write("results.json", (json.dumps(self.document, indent=1) + "\n").encode())
        self._write("logs.tar.gz", archive)
        self.saved = time.monotonic()

    def _archive(self):
        """The smallest files first, as many as fit."""
        files = sorted((path for path in self.work.iterdir() if path.is_file()), key=lambda path: path.stat().st_size)
        left_out, size, archive = [], 0, io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz", compresslevel=6) as tar:
            for path in files:
                data = path.read_bytes()
                if size + len(data) > MOST_LOG_BYTES:
                    left_out.append(path.name)
                    continue
                size += len(data) + 2 * tarfile.BLOCKSIZE
                member = tarfile.TarInfo(path.name)
                member.size, member.mtime = len(data), int(time.time())
                tar.addfile(member, io.BytesIO(data))
        return archive.getvalue(), left_out

    def _write(self, name, data):
        """Aside, then renamed: never half a file under the name."""
        aside = self.out / f"{name}.part"
        aside.write_bytes(data)
        os.replace(aside, self.out / name)
