"""Unpacks the bundle beside its archive, once."""

import hashlib
import shutil
import tarfile
import tempfile
from pathlib import Path


def unpack(archive):
    """The folder with the bundle's files."""
    mark = hashlib.sha256(archive.read_bytes()).hexdigest()
    folder = archive.parent / "files"
    if _mark(folder) == mark:
        return folder
    try:
        shutil.rmtree(folder, ignore_errors=True)
        aside = Path(tempfile.mkdtemp(prefix="files-", dir=archive.parent))
    except OSError:
        # The bundle lies where nothing may be written.
        folder = aside = Path(tempfile.mkdtemp(prefix="lora-kernels-"))
    with tarfile.open(archive) as tar:
        options = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        tar.extractall(aside, **options)
    (aside / "unpacked").write_text(mark)
    # Renamed when complete, so that a kill leaves no half bundle.
    return folder if aside == folder else aside.rename(folder)


def _mark(folder):
    try:
        return (folder / "unpacked").read_text()
    except OSError:
        return None
