"""Errnos: programs decide by them whether to retry, to make a folder, or to give up."""

from __future__ import annotations

import errno
import logging
import os

import pytest

from dedupfs.core import errors
from dedupfs.fuse.errnos import ERRNOS, errno_of


def subclasses(of: type[errors.FsError]) -> set[type[errors.FsError]]:
    return {sub for direct in of.__subclasses__() for sub in {direct, *subclasses(direct)}}


def test_every_error_of_the_file_system_has_an_errno() -> None:
    """One without would be answered EIO, as if the disk were broken."""
    assert set(ERRNOS) == subclasses(errors.FsError)


def test_errnos_are_real_and_the_kernel_is_never_told_to_stop_asking() -> None:
    """ENOSYS would switch a kind of request off for the rest of the mount."""
    for error, number in ERRNOS.items():
        assert number in errno.errorcode, error
        assert number != errno.ENOSYS, error
        assert errno_of(error("why"), "request") == number


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_what_the_disk_says_of_itself_is_passed_on(number: int) -> None:
    assert errno_of(OSError(number, os.strerror(number)), "write") == number


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENOSYS, errno.ESTALE, errno.EINTR])
def test_what_would_be_taken_for_the_mounted_file_is_not(
    number: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A missing segment is no missing file."""
    assert errno_of(OSError(number, os.strerror(number)), "read") == errno.EIO
    assert "bug" in caplog.text


def raised() -> KeyError:
    try:
        {}["missing"]
    except KeyError as error:
        return error
    raise AssertionError


def test_a_bug_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        assert errno_of(raised(), "lookup") == errno.EIO
    assert "bug: lookup" in caplog.text
    assert "Traceback" in caplog.text


def test_damage_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert errno_of(errors.Damaged("segment 7"), "read") == errno.EIO
    assert "segment 7" in caplog.text
