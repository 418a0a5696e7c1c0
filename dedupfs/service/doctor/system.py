"""What the kernel, libfuse and this process's rights allow."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import shutil
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dedupfs.fuse import passthrough
from dedupfs.service.doctor.findings import Finding, ok, problem, warning

if TYPE_CHECKING:
    from collections.abc import Iterator

FUSE_DEVICE: Final = Path("/dev/fuse")
FUSE_CONF: Final = Path("/etc/fuse.conf")
_KERNEL_MIN: Final = (5, 4)
_LIBFUSE_MIN: Final = (3, 10)
_PAGES_LIMIT: Final = Path("/proc/sys/fs/fuse/max_pages_limit")
_PAGES_USEFUL: Final = 257  # service as in fuse.handshake.REQUEST_PAGES
_FILES_USEFUL: Final = 65_536
_ADDRESS_USEFUL_BYTES: Final = 64 << 30  # LMDB maps its whole size at once
_CAP_SYS_ADMIN: Final = 21
_CLOCK_MIN_S: Final = 1_700_000_000  # November 2023: before this program was written
_CONTAINER_MARKS: Final = (Path("/.dockerenv"), Path("/run/.containerenv"))


def findings() -> Iterator[Finding]:
    """Yield what was found; reads files and makes system calls, changes nothing."""
    yield _kernel()
    yield from _device()
    yield _helper()
    yield _other_users()
    yield _libfuse()
    yield _direct_reads()
    yield _request_size()
    yield from _limits()
    yield _clock()


def in_container() -> str | None:
    """Return what shows that this is a container, None when nothing does."""
    for mark in _CONTAINER_MARKS:
        if mark.exists():
            return str(mark)
    try:
        found = re.search(
            r"docker|containerd|kubepods|lxc|libpod", Path("/proc/1/cgroup").read_text()
        )
    except OSError:
        return None
    return f"{found[0]} in /proc/1/cgroup" if found else None


def _kernel() -> Finding:
    release = os.uname().release
    version = _version(release)
    if version < _KERNEL_MIN:
        return problem("kernel", f"Linux {release}", "5.4 or newer is needed")
    if version < passthrough.KERNEL_MIN:
        return warning(
            "kernel", f"Linux {release}",
            "from 6.9 on, equal files are read at the speed of the disk and once into memory",
        )  # fmt: skip
    return ok("kernel", f"Linux {release}")


def _device() -> Iterator[Finding]:
    container = in_container()
    if not FUSE_DEVICE.exists():
        advice = (
            f"start the container ({container}) with --device /dev/fuse --cap-add SYS_ADMIN "
            "--security-opt apparmor=unconfined"
            if container
            else "modprobe fuse"
        )
        yield problem("/dev/fuse", "is missing", advice)
        return
    try:
        os.close(os.open(FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        advice = (
            f"start the container ({container}) with --device /dev/fuse"
            if container
            else f"chmod 666 {FUSE_DEVICE}, or join its group"
        )
        yield problem("/dev/fuse", f"cannot be opened: {error.strerror}", advice)
        return
    yield ok("/dev/fuse", "can be opened")
    if container and not _may_get_sys_admin():
        yield problem(
            "container", f"{container}, and no CAP_SYS_ADMIN: mount(2) is refused",
            "docker run --cap-add SYS_ADMIN --device /dev/fuse "
            "--security-opt apparmor=unconfined",
        )  # fmt: skip
    elif container:
        profile = _read(Path("/proc/self/attr/current"))
        confined = "docker" in profile and "unconfined" not in profile
        yield (
            warning("container", f"{container}, AppArmor profile {profile}: it may forbid mount(2)",
                    "--security-opt apparmor=unconfined")
            if confined
            else ok("container", f"{container}, with CAP_SYS_ADMIN")
        )  # fmt: skip


def _may_get_sys_admin() -> bool:
    """Tell whether the right to mount is within reach, for a user by way of fusermount3."""
    found = re.search(r"^CapBnd:\s*(\w+)$", _read(Path("/proc/self/status")), re.MULTILINE)
    return found is None or bool(int(found[1], 16) >> _CAP_SYS_ADMIN & 1)


def _helper() -> Finding:
    path = shutil.which("fusermount3")
    if os.geteuid() == 0:
        return ok("fusermount3", path or "not installed, and not needed by root")
    if path is None:
        return problem("fusermount3", "is missing", "apt-get install fuse3")
    found = Path(path).stat()
    if found.st_uid != 0 or not found.st_mode & stat.S_ISUID:
        return problem(
            "fusermount3", f"{path} is not setuid root, so users cannot mount",
            f"as root: chown root {path} && chmod u+s {path}",
        )  # fmt: skip
    return ok("fusermount3", f"{path}, setuid root")


def _other_users() -> Finding:
    what = "--allow-other"
    if os.geteuid() == 0:
        return ok(what, "root may")
    lines = (line.strip() for line in _read(FUSE_CONF).splitlines())
    if "user_allow_other" in lines:
        return ok(what, f"allowed by {FUSE_CONF}")
    return warning(
        what, "other users cannot be let in",
        f"as root: echo user_allow_other >> {FUSE_CONF}; not needed if only you use the mount",
    )  # fmt: skip


def _libfuse() -> Finding:
    try:
        library = ctypes.CDLL("libfuse3.so.3")
    except OSError:
        try:
            library = ctypes.CDLL("libfuse3.so.4")
        except OSError:
            return problem("libfuse", "libfuse3 is missing", "apt-get install libfuse3-3")
    library.fuse_pkgversion.restype = ctypes.c_char_p
    text = library.fuse_pkgversion().decode()
    if _version(text) < _LIBFUSE_MIN:
        return warning("libfuse", text, "3.10 or newer is what dedupfs is tested with")
    return ok("libfuse", text)


def _direct_reads() -> Finding:
    why = passthrough.why_not()
    if why is None:
        return ok("passthrough", "files that equal a segment are read from it directly")
    return warning("passthrough", f"reads take the ordinary path: {why}", "works, only slower")


def _request_size() -> Finding:
    text = _read(_PAGES_LIMIT)
    if not text:
        return ok("request size", "this kernel has no limit to raise")
    if int(text) < _PAGES_USEFUL and os.geteuid() != 0:
        return warning(
            "request size", f"{_PAGES_LIMIT} is {text}: some writes of 1 MiB become two requests",
            f"as root: echo {_PAGES_USEFUL} > {_PAGES_LIMIT}",
        )  # fmt: skip
    return ok("request size", f"{_PAGES_LIMIT} is {text}, a mount raises it if need be")


def _limits() -> Iterator[Finding]:
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and files < _FILES_USEFUL:
        yield warning(
            "open files", f"at most {files:,}: a mount holds one for each segment in use",
            "raise the hard limit: ulimit -Hn, limits.conf(5), docker run --ulimit nofile=1048576",
        )  # fmt: skip
    else:
        yield ok("open files", "no limit" if files == resource.RLIM_INFINITY else f"{files:,}")
    space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if space != resource.RLIM_INFINITY and space < _ADDRESS_USEFUL_BYTES:
        yield problem(
            "address space", f"ulimit -v {space >> 10}: the index is mapped as a whole",
            "ulimit -v unlimited",
        )  # fmt: skip
    else:
        yield ok("address space", "enough")


def _clock() -> Finding:
    if time.clock_gettime(time.CLOCK_REALTIME) < _CLOCK_MIN_S:
        return problem("clock", "is years behind", "set it: files would be older than they are")
    return ok("clock", "plausible")


def _version(text: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip().rstrip("\0")
    except OSError:
        return ""
