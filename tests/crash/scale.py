"""How much is tried: a little in every test run, much under `make crash` (DEDUPFS_CRASH=long)."""

from __future__ import annotations

import os
import random
from typing import Final

IS_LONG: Final = os.environ.get("DEDUPFS_CRASH") == "long"
SEED: Final = os.environ.get("DEDUPFS_CRASH_SEED") or f"{random.randrange(10**9)}"

KILLS: Final = 200 if IS_LONG else 20
SHUTDOWN_ROUNDS: Final = 100 if IS_LONG else 5
STATES: Final = 520 if IS_LONG else 36
