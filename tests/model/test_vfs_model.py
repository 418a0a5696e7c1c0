"""Random operations on the vfs with a real store, against a file system of dicts and bytearrays.

A bug found here stays below as a `regression_` test.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dedupfs.core.errors import (
    FsError,
    InvalidArgument,
    IsADirectory,
    NameExists,
    NoSuchAttribute,
    NoSuchName,
    NotADirectory,
    NotEmpty,
    NotPermitted,
)
from dedupfs.core.types import ROOT_INO, Ino
from dedupfs.vfs.attributes import SetAttr
from model.tree import SOURCE, Node
from store.invariants import check
from vfs.world import USER, World

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS = {"file": stat.S_IFREG, "dir": stat.S_IFDIR, "link": stat.S_IFLNK}

picks = st.integers(0, 1 << 16)
names = st.sampled_from([b"a", b"b", b"c", b"d", b"\xff\xfe", b"n" * 255])
xattr_names = st.sampled_from([b"user.one", b"user.two", b"trusted.three"])
offsets = st.one_of(
    st.integers(0, 20_000), st.integers(0, 40).map(lambda n: n * 65_536), st.integers(0, 3_000_000)
)
lengths = st.one_of(st.integers(0, 9_000), st.integers(0, 400_000))
sources = st.one_of(st.integers(0, 60).map(lambda n: n * 4_096), st.integers(0, 400_000))


class VfsMachine(RuleBasedStateMachine):
    """Does the same to a Vfs and to a tree of nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="dedupfs-model-")
        self.world = World(Path(self.folder.name) / "store")
        self.root = Node("dir", ROOT_INO)
        self.nodes = [self.root]
        self.handles: list[tuple[int, Node]] = []
        self.listings: list[tuple[int, Node]] = []

    @property
    def vfs(self):  # noqa: ANN201 - Vfs; it changes when the world is opened anew
        return self.world.vfs

    @property
    def directories(self) -> list[Node]:
        return [node for node in self.nodes if node.kind == "dir" and node.is_alive]

    @property
    def files(self) -> list[Node]:
        return [node for node in self.nodes if node.kind == "file" and node.is_alive]

    def directory(self, pick: int) -> Node:
        return self.directories[pick % len(self.directories)]

    @contextlib.contextmanager
    def expect(self, *errors: type[FsError] | None) -> Iterator[None]:
        """Want the block to raise one of the errors that apply, or nothing if none does."""
        wanted = tuple(error for error in errors if error is not None)
        if not wanted:
            yield
            return
        with pytest.raises(wanted):
            yield

    def add(self, parent: Node, name: bytes, node: Node) -> None:
        parent.entries[name] = node
        node.parent = parent
        self.nodes.append(node)

    def lose(self, node: Node) -> None:
        node.names -= 1
        self.nodes = [n for n in self.nodes if n.is_alive]

    # making

    def cannot_make(self, parent: Node, name: bytes) -> type[FsError] | None:
        if not parent.names:
            return NoSuchName
        return NameExists if name in parent.entries else None

    @rule(pick=picks, name=names, keep=st.booleans())
    def create(self, pick: int, name: bytes, *, keep: bool) -> None:
        parent = self.directory(pick)
        error = self.cannot_make(parent, name)
        with self.expect(error):
            flags = os.O_RDWR | os.O_EXCL
            made, handle = self.vfs.create(Ino(parent.ino), name, 0o644, USER, flags)
        if error is None:
            node = Node("file", made.ino)
            node.handles = node.lookups = 1
            self.add(parent, name, node)
            self.handles.append((handle, node))
            if not keep:
                self.forget(len(self.nodes) - 1)

    @rule(pick=picks, name=names, kind=st.sampled_from(["file", "dir", "link"]))
    def make(self, pick: int, name: bytes, kind: str) -> None:
        parent = self.directory(pick)
        error = self.cannot_make(parent, name)
        with self.expect(error):
            if kind == "dir":
                made = self.vfs.mkdir(Ino(parent.ino), name, 0o755, USER)
            elif kind == "link":
                made = self.vfs.symlink(Ino(parent.ino), name, b"to/" + name, USER)
            else:
                made = self.vfs.mknod(Ino(parent.ino), name, stat.S_IFREG | 0o600, 0, USER)
        if error is None:
            node = Node(kind, made.ino)
            node.target = b"to/" + name if kind == "link" else b""
            self.add(parent, name, node)
            self.vfs.forget([(made.ino, 1)])

    @rule(pick=picks, into=picks, name=names)
    def link(self, pick: int, into: int, name: bytes) -> None:
        node, parent = self.nodes[pick % len(self.nodes)], self.directory(into)
        error = self.cannot_make(parent, name)
        if node.kind == "dir":
            error = NotPermitted
        elif not node.names:
            error = NoSuchName
        with self.expect(error, self.cannot_make(parent, name) if error else None):
            self.vfs.link(Ino(node.ino), Ino(parent.ino), name)
        if error is None:
            self.vfs.forget([(Ino(node.ino), 1)])
            node.names += 1
            parent.entries[name] = node

    # removing and moving

    @rule(pick=picks, name=names)
    def unlink(self, pick: int, name: bytes) -> None:
        parent = self.directory(pick)
        node = parent.entries.get(name)
        error = None
        if node is None:
            error = NoSuchName
        elif node.kind == "dir":
            error = IsADirectory
        with self.expect(error):
            self.vfs.unlink(Ino(parent.ino), name)
        if error is None:
            self.lose(parent.entries.pop(name))

    @rule(pick=picks, name=names)
    def rmdir(self, pick: int, name: bytes) -> None:
        parent = self.directory(pick)
        node = parent.entries.get(name)
        error = None
        if node is None:
            error = NoSuchName
        elif node.kind != "dir":
            error = NotADirectory
        elif node.entries:
            error = NotEmpty
        with self.expect(error):
            self.vfs.rmdir(Ino(parent.ino), name)
        if error is None:
            self.lose(parent.entries.pop(name))

    @rule(
        pick=picks,
        name=names,
        into=picks,
        new_name=names,
        flags=st.sampled_from(["", "", "", "no_replace", "exchange"]),
    )
    def rename(self, pick: int, name: bytes, into: int, new_name: bytes, flags: str) -> None:
        old, new = self.directory(pick), self.directory(into)
        error = self.cannot_rename(old, name, new, new_name, flags)
        with self.expect(*error):
            flag = {flags: True} if flags else {}
            self.vfs.rename(Ino(old.ino), name, Ino(new.ino), new_name, **flag)
        if error:
            return
        moved, target = old.entries[name], new.entries.get(new_name)
        if moved is target:
            return
        new.entries[new_name] = moved
        moved.parent = new if moved.kind == "dir" else moved.parent
        if flags == "exchange" and target is not None:
            old.entries[name] = target
            target.parent = old if target.kind == "dir" else target.parent
            return
        del old.entries[name]
        if target is not None:
            self.lose(target)

    def cannot_rename(
        self, old: Node, name: bytes, new: Node, new_name: bytes, flags: str
    ) -> list[type[FsError]]:
        """Return all errors that would be right: POSIX does not say which comes first."""
        moved, target = old.entries.get(name), new.entries.get(new_name)
        if moved is None or not new.names or (flags == "exchange" and target is None):
            return [NoSuchName]
        if target is not None and flags == "no_replace":
            return [NameExists]
        if moved is target:
            return []
        loops = moved.kind == "dir" and new.is_under(moved)
        if target is not None and flags == "exchange":
            loops = loops or (target.kind == "dir" and old.is_under(target))
            return [InvalidArgument] if loops else []
        return [InvalidArgument] * loops + self.cannot_replace(moved, target)

    def cannot_replace(self, moved: Node, target: Node | None) -> list[type[FsError]]:
        if target is None or (moved.kind != "dir" and target.kind != "dir"):
            return []
        if moved.kind != "dir":
            return [IsADirectory]
        if target.kind != "dir":
            return [NotADirectory]
        return [NotEmpty] if target.entries else []

    # content

    @precondition(lambda self: self.files)
    @rule(pick=picks, flags=st.sampled_from([os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_TRUNC]))
    def open(self, pick: int, flags: int) -> None:
        node = self.files[pick % len(self.files)]
        self.handles.append((self.vfs.open(Ino(node.ino), flags), node))
        node.handles += 1
        if flags & os.O_TRUNC:
            node.truncate(0)

    @precondition(lambda self: self.handles)
    @rule(pick=picks, offset=offsets, source=sources, length=lengths)
    def write(self, pick: int, offset: int, source: int, length: int) -> None:
        handle, node = self.handles[pick % len(self.handles)]
        data = SOURCE[source : source + length]
        assert self.vfs.write(handle, offset, data) == len(data)
        if data:
            node.write(offset, data)

    @precondition(lambda self: self.handles)
    @rule(pick=picks, source=sources, parts=st.integers(1, 8), length=lengths)
    def append(self, pick: int, source: int, parts: int, length: int) -> None:
        for part in range(parts):
            offset = len(self.handles[pick % len(self.handles)][1].data)
            self.write(pick, offset, source + part * length, length)

    @precondition(lambda self: self.handles)
    @rule(pick=picks, offset=offsets, length=lengths)
    def read(self, pick: int, offset: int, length: int) -> None:
        handle, node = self.handles[pick % len(self.handles)]
        assert self.read_bytes(handle, offset, length) == node.data[offset : offset + length]

    def read_bytes(self, handle: int, offset: int, length: int) -> bytes:
        async def read() -> bytes:
            return bytes(await self.vfs.read(handle, offset, length))

        return trio.run(read)

    @precondition(lambda self: self.files)
    @rule(pick=picks, size=offsets)
    def truncate(self, pick: int, size: int) -> None:
        node = self.files[pick % len(self.files)]
        assert self.vfs.setattr(Ino(node.ino), SetAttr(size=size)).inode.size == size
        node.truncate(size)

    @precondition(lambda self: self.handles)
    @rule(pick=picks)
    def flush(self, pick: int) -> None:
        self.vfs.flush(self.handles[pick % len(self.handles)][0])

    @precondition(lambda self: self.handles)
    @rule(pick=picks)
    def release(self, pick: int) -> None:
        handle, node = self.handles.pop(pick % len(self.handles))
        self.vfs.release(handle)
        node.handles -= 1
        self.nodes = [n for n in self.nodes if n.is_alive]

    # the rest

    @rule(pick=picks)
    def remember(self, pick: int) -> None:
        """Let the kernel look a name up."""
        parent = self.directory(pick)
        for name, node in parent.entries.items():
            assert self.vfs.lookup(Ino(parent.ino), name).ino == node.ino
            node.lookups += 1

    @rule(pick=picks)
    def forget(self, pick: int) -> None:
        node = self.nodes[pick % len(self.nodes)]
        if node.lookups:
            self.vfs.forget([(Ino(node.ino), node.lookups)])
            node.lookups = 0
            self.nodes = [n for n in self.nodes if n.is_alive]

    @rule(pick=picks, name=xattr_names, value=st.binary(max_size=50), remove=st.booleans())
    def change_xattr(self, pick: int, name: bytes, value: bytes, *, remove: bool) -> None:
        node = self.nodes[pick % len(self.nodes)]
        if not remove:
            self.vfs.setxattr(Ino(node.ino), name, value)
            node.xattrs[name] = value
            return
        with self.expect(None if name in node.xattrs else NoSuchAttribute):
            self.vfs.removexattr(Ino(node.ino), name)
        node.xattrs.pop(name, None)

    @rule(pick=picks)
    def list_slowly(self, pick: int) -> None:
        """Open a listing; it is read to its end later, whatever happens until then."""
        node = self.directory(pick)
        handle = self.vfs.opendir(Ino(node.ino))
        self.listings.append((handle, node))

    @precondition(lambda self: self.listings)
    @rule()
    def finish_listing(self) -> None:
        handle, node = self.listings.pop()
        if node.is_alive:
            seen = [entry.name for entry in self.vfs.readdir(handle, 2)]
            assert len(seen) == len(set(seen))
            assert set(seen) <= set(node.entries)
        self.vfs.releasedir(handle)

    @rule()
    def reclaim(self) -> None:
        while True:
            doomed, more = self.world.store.reclaim()
            for path in doomed:
                path.unlink(missing_ok=True)
            if not more:
                return

    @rule(kill=st.booleans())
    def open_anew(self, *, kill: bool) -> None:
        """End the mount, in order or by a kill after a flush, and mount again."""
        for handle, _ in self.handles:
            self.vfs.flush(handle)
        if kill:
            self.world.crash()
        else:
            self.world.reopen()
        self.handles, self.listings = [], []
        for node in self.nodes:
            node.handles = node.lookups = 0
        self.nodes = [node for node in self.nodes if node.is_alive]

    @invariant()
    def attributes_are_right(self) -> None:
        assert self.world.inodes() == len(self.nodes)
        for node in self.nodes:
            found = self.vfs.getattr(Ino(node.ino)).inode
            assert stat.S_IFMT(found.mode) == KINDS[node.kind]
            assert found.nlink == node.nlink, node.kind
            if node.kind == "file":
                assert found.size == len(node.data)

    def everything_is_right(self) -> None:
        for node in self.nodes:
            ino = Ino(node.ino)
            assert set(self.vfs.listxattr(ino, privileged=True)) == set(node.xattrs)
            for name, value in node.xattrs.items():
                assert self.vfs.getxattr(ino, name) == value
            if node.kind == "dir":
                assert sorted(self.world.names(ino)) == sorted(node.entries)
                for name, child in node.entries.items():
                    assert self.world.look(name, ino).ino == child.ino
            elif node.kind == "link":
                assert self.vfs.readlink(ino) == node.target
            else:
                handle = self.vfs.open(ino, os.O_RDONLY)
                assert self.read_bytes(handle, 0, len(node.data) + 1) == node.data
                self.vfs.release(handle)

    def teardown(self) -> None:
        try:
            self.everything_is_right()
            self.open_anew(kill=False)
            self.everything_is_right()
            check(self.world.store)
        finally:
            self.world.close()
            self.folder.cleanup()


VfsMachine.TestCase.settings = settings(
    max_examples=int(os.environ.get("DEDUPFS_MODEL_EXAMPLES", "100")),
    stateful_step_count=50,
    deadline=None,
    derandomize="DEDUPFS_MODEL_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
TestVfs = VfsMachine.TestCase


def test_regression_an_empty_write_does_not_extend(tmp_path: Path) -> None:
    world = World(tmp_path / "store")
    made, handle = world.vfs.create(ROOT_INO, b"a", 0o644, USER, os.O_RDWR)
    assert world.vfs.write(handle, 10, b"") == 0
    assert world.vfs.getattr(made.ino).inode.size == 0
    world.close()


def test_regression_an_unlinked_file_the_kernel_knows_keeps_its_last_bytes(tmp_path: Path) -> None:
    """Closed without a flush, it can still be opened through /proc/self/fd of an O_PATH handle."""
    world = World(tmp_path / "store")
    made, handle = world.vfs.create(ROOT_INO, b"a", 0o644, USER, os.O_RDWR)
    world.vfs.unlink(ROOT_INO, b"a")
    world.vfs.write(handle, 0, b"x")
    world.vfs.release(handle)
    assert trio.run(world.content, made.ino) == b"x"
    world.close()
