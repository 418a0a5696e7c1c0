"""`python -m dedupfs.cli` is `dedupfs`."""

from __future__ import annotations

from dedupfs.cli.main import main

if __name__ == "__main__":
    main()
