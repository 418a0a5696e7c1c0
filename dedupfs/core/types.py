"""Distinct types for distinct integers, and the sizes every layer agrees on."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NewType

Ino = NewType("Ino", int)
SegmentId = NewType("SegmentId", int)
Cookie = NewType("Cookie", int)

ROOT_INO: Final = Ino(1)
PAGE_BYTES: Final = 4096
NAME_MAX_BYTES: Final = 255
# ext4's limit with 4 KiB blocks (fs/ext4/super.c, ext4_max_size): programs expect EFBIG above it.
FILE_MAX_BYTES: Final = (1 << 44) - PAGE_BYTES


class IoMode(StrEnum):
    """How file data goes between kernel and daemon."""

    AUTO = "auto"
    PASSTHROUGH = "passthrough"
    WRITEBACK = "writeback"
