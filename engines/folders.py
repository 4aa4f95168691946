"""Folders of one process in the system's temporary one. Those of processes that were killed go with the next start.

A folder is its process's as long as that holds the lock on the mark inside, which the system takes back from whatever
way it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from pathlib import Path

PREFIX = "slosgate-"
MARK = ".in-use"


class OwnFolder:
    """A folder that only its user may enter, until `remove`."""

    def __init__(self, name: str) -> None:
        remove_left_behind(Path(tempfile.gettempdir()))
        self.path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{name}-"))
        new = self.path / f"{MARK}-new"
        self._mark = os.open(new, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._mark, fcntl.LOCK_EX)
        new.rename(self.path / MARK)  # it is locked before anybody can see it

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Delete it with all that it holds; a second time does nothing."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._mark >= 0:
            os.close(self._mark)
        self._mark = -1


def remove_left_behind(place: Path) -> None:
    """Delete this user's marked folders whose process has ended."""
    for folder in place.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # in use, unmarked, or gone by now
            _remove_unless_used(folder)


def _remove_unless_used(folder: Path) -> None:
    """Raises OSError when it is in use or has no mark."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        return
    mark = os.open(folder / MARK, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(mark)
