"""What a look at the machine found: one thing each, and what to do about it."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"  # works, but slower, less safe, or not for everybody
    PROBLEM = "problem"  # mounting fails, or data is at risk


class Finding(NamedTuple):
    """One thing looked at; `advice` is "" when there is nothing to do."""

    what: str
    level: Level
    text: str
    advice: str = ""

    def document(self) -> dict[str, str]:
        """Return the JSON document."""
        return {
            "what": self.what,
            "level": str(self.level),
            "text": self.text,
            "advice": self.advice,
        }


def ok(what: str, text: str) -> Finding:
    """Return that all is well."""
    return Finding(what, Level.OK, text)


def warning(what: str, text: str, advice: str) -> Finding:
    """Return something that could be better."""
    return Finding(what, Level.WARNING, text, advice)


def problem(what: str, text: str, advice: str) -> Finding:
    """Return something that has to be mended."""
    return Finding(what, Level.PROBLEM, text, advice)
