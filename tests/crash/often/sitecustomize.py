"""On the path of a daemon under test: lets it fold its journal every few hundred operations."""

from __future__ import annotations

import sys

if "dedupfs.service" in " ".join(sys.orig_argv):
    from dedupfs.store import index

    index._FOLD_CHANGES = 3000
