"""A file system of its own on a loop device, whose power can be cut."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

IMAGE_BYTES = 600 << 20
SHUTDOWN = 0x8004587D  # FS_IOC_SHUTDOWN, include/uapi/linux/fs.h; the same number on XFS and ext4
NO_LOG_FLUSH = 2  # nothing that was not synced survives
MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-F"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
}


@dataclass
class Disk:
    """An image file, mounted at `path`."""

    kind: str
    image: Path
    path: Path

    def make(self) -> None:
        with self.image.open("wb") as file:
            file.truncate(IMAGE_BYTES)
        _run(*MAKE[self.kind], self.image)
        self.path.mkdir(exist_ok=True)

    def mount(self) -> None:
        _run("mount", "-o", "loop", "-t", self.kind, self.image, self.path)

    def unmount(self) -> None:
        """Unmount; a killed process or whoever looks over all mounts may hold it for a moment.

        A mount namespace made meanwhile has a copy of the mount: until it ends the file system stays,
        shut down, and mounting the image again would find that one (XFS answers EIO).
        """
        deadline = time.monotonic() + 60
        while True:
            try:
                _run("umount", self.path)
            except AssertionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                break
        while self._is_attached():
            assert time.monotonic() < deadline, f"another mount namespace holds {self.path}"
            time.sleep(0.01)

    def _is_attached(self) -> bool:
        for path in Path("/sys/block").glob("loop*/loop/backing_file"):
            with contextlib.suppress(OSError):  # detached meanwhile
                if path.read_text().strip() == str(self.image):
                    return True
        return False

    def cut_power(self) -> None:
        """Stop the file system: what is not on disk now never will be."""
        fd = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, SHUTDOWN, struct.pack("i", NO_LOG_FLUSH))
        finally:
            os.close(fd)

    def clear(self) -> None:
        """Leave no mount and no loop device behind."""
        # os.path.ismount finds nothing where the file system is shut down.
        while f" {self.path} " in Path("/proc/self/mountinfo").read_text():
            _run("umount", "-l", self.path)
        self.image.unlink(missing_ok=True)


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
