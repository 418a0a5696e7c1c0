"""One rank that installs a wheel through a cache: INSTALLER FOLDER URL, `pip` or `uv`. Twice."""

import os
import subprocess
import sys

from answering import answer, tree_digest


def main() -> None:
    installer, folder, address = sys.argv[1:]
    tool = {"pip": [sys.executable, "-m", "pip"], "uv": [sys.executable, "-m", "uv", "pip"]}
    # pip keeps no cache of what comes by plain http otherwise.
    more = {"pip": ["--trusted-host", "127.0.0.1"], "uv": []}
    digests = []
    for turn in ("first", "second"):
        target = os.path.join(folder, turn)
        subprocess.run(
            [
                *tool[installer], "install", "-q", "--no-deps", *more[installer],
                "--cache-dir", os.path.join(folder, "cache"),
                "--index-url", f"{address}/simple/", "--target", target, "bigpackage",
            ],
            stdout=sys.stderr,
            check=True,
        )  # fmt: skip
        digests.append(tree_digest(os.path.join(target, "bigpackage")))
    answer(digest=digests[0], again=digests[1])


main()
