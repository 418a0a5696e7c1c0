"""What differs between the mount and the plain directory, less what is accepted."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, cast

from mount.conformance.accepted import ANSWERS, FIELDS, TIME_MAX_NS, Difference
from mount.conformance.cases.data import FILE_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mount.conformance.model import Case, Step

Report: TypeAlias = "dict[str, dict[str, object]]"


def differences(cases: list[Case], plain: Report, mount: Report, *, io: str) -> list[str]:
    """Return what differs, one text for each case that does."""
    found = []
    for case in cases:
        lines = [f"  {line}" for line in _lines(case, plain[case.name], mount[case.name], io)]
        if lines:
            setup = "; ".join(map(str, case.setup)) or "nothing"
            found.append("\n".join([f"after {setup}", *lines]))
    return found


def _lines(case: Case, plain: dict[str, object], mount: dict[str, object], io: str) -> list[str]:
    for side, report in (("plain", plain), ("mount", mount)):
        if "setup" in report:
            return [f"{side}: {report['setup']}"]
    lines: list[str] = []
    pairs = zip(_steps(plain), _steps(mount), strict=True)
    for step, (one, other) in zip(case.act, pairs, strict=True):
        if one["result"] != other["result"]:
            it = Difference(case, step, "answer", "", one["result"], other["result"], io)
            if any(accepts(it) for accepts in ANSWERS.values()):
                return lines
            lines.append(str(it))
        lines += _unaccepted(case, step, one["changes"], other["changes"], io)
    return lines + _unaccepted(case, None, plain["contents"], mount["contents"], io)


def _steps(report: dict[str, object]) -> list[dict[str, object]]:
    return cast("list[dict[str, object]]", report["steps"])


def _unaccepted(case: Case, step: Step | None, plain: object, mount: object, io: str) -> list[str]:
    return [
        str(it)
        for it in _changed(case, step, cast("Report", plain), cast("Report", mount), io)
        if not any(accepts(it) for accepts in FIELDS.values())
    ]


def _changed(
    case: Case, step: Step | None, plain: Report, mount: Report, io: str
) -> Iterator[Difference]:
    for path in sorted(plain.keys() | mount.keys()):
        here, there = plain.get(path), mount.get(path)
        if here is None or there is None:
            yield Difference(case, step, "is there", path, here is not None, there is not None, io)
            continue
        for key in sorted(here.keys() | there.keys()):
            if here.get(key) != there.get(key):
                kind = here.get("kind")
                yield Difference(case, step, key, path, here.get(key), there.get(key), io, kind)


def survived(before: dict[str, object] | None, after: dict[str, object] | None, *, io: str) -> bool:
    """Return whether an object is the same after a remount.

    With the writeback cache the kernel shows what it has not been refused yet (a size beyond the
    limit), and times that the server cannot hold; both are gone with the kernel's inode.
    """
    if before is None or after is None or before == after:
        return before == after
    size, mtime_ns = before.get("size"), before.get("mtime_ns")
    assert isinstance(size, int)
    assert isinstance(mtime_ns, int)
    return io == "writeback" and (size > FILE_MAX or mtime_ns > TIME_MAX_NS)
