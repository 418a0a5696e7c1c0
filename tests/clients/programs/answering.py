"""What every rank does at its end: say what it found, and wait until all may go."""

import hashlib
import json
import os
import sys


def answer(**found: object) -> None:
    """Print the answer; return when the test says so."""
    print(json.dumps(found), flush=True)
    sys.stdin.read()


def tree_digest(folder: str) -> str:
    """Return one digest over the names and bytes of all regular files below, symlinks followed.

    Without locks, and without byte code, which holds the time of its source.
    """
    total = hashlib.sha256()
    for path, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            full = os.path.join(path, name)
            if name.endswith((".lock", ".pyc")) or not os.path.isfile(full):
                continue
            with open(full, "rb") as file:
                total.update(os.path.relpath(full, folder).encode())
                total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()
