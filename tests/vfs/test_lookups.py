"""Lookup counts: one too few drops a file under its reader, one too many keeps its space for ever."""

from __future__ import annotations

import os
import tracemalloc
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from dedupfs.core.errors import NoSuchName
from dedupfs.core.types import ROOT_INO, Ino
from dedupfs.vfs.lookups import Lookups
from vfs.world import USER, World

if TYPE_CHECKING:
    import random
    from pathlib import Path

INOS = st.integers(1, 100) | st.integers(1, 2**63)


@given(st.lists(st.tuples(INOS, st.integers(1, 700), st.integers(0, 800))))
def test_counts_are_those_of_a_plain_counter(steps: list[tuple[int, int, int]]) -> None:
    lookups, want = Lookups(), Counter[int]()
    for number, add, take in steps:
        ino = Ino(number)
        for _ in range(add):
            lookups.add(ino)
        want[ino] += add
        if take:
            want[ino] = max(0, want[ino] - take)
            assert lookups.take(ino, take) == (want[ino] == 0)
        assert all((Ino(one) in lookups) == (count > 0) for one, count in want.items())
    for number, count in want.items():
        ino = Ino(number)
        if count > 1:
            assert not lookups.take(ino, count - 1)
        if count:
            assert lookups.take(ino, 1)
    assert not lookups._rows
    assert not lookups._more


@pytest.mark.parametrize(
    ("step", "told", "limit_bytes"), [(1, 1, 10), (1, 3, 10), (7, 1, 45), (1000, 1, 260)]
)
def test_what_the_kernel_knows_takes_few_bytes(step: int, told: int, limit_bytes: int) -> None:
    """A million files walked through by `find` must not cost the daemon 100 MB."""
    count = 50_000
    tracemalloc.start()
    try:
        lookups = Lookups()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(told):
            for ino in range(10**9, 10**9 + count * step, step):
                lookups.add(Ino(ino))
        taken = tracemalloc.get_traced_memory()[0] - before
        assert taken / count < limit_bytes
        for ino in range(10**9, 10**9 + count * step, step):
            lookups.take(Ino(ino), told)
        assert not lookups._rows
    finally:
        tracemalloc.stop()


class Kernel(RuleBasedStateMachine):
    """Names come and go, are looked up and forgotten; an inode lives as long as one of these does."""

    path: Path

    @initialize()
    def start(self) -> None:
        self.world = World(self.path / os.urandom(8).hex())
        self.told = Counter[Ino]()
        self.names: dict[bytes, Ino] = {}
        self.handles: dict[int, Ino] = {}

    @rule(name=st.sampled_from([b"a", b"b", b"c"]))
    def create(self, name: bytes) -> None:
        if name not in self.names:
            made, handle = self.world.vfs.create(ROOT_INO, name, 0o644, USER, os.O_RDWR)
            self.told[made.ino] += 1
            self.names[name], self.handles[handle] = made.ino, made.ino

    @rule(name=st.sampled_from([b"a", b"b", b"c"]), times=st.sampled_from([1, 2, 300]))
    def lookup(self, name: bytes, times: int) -> None:
        for _ in range(times if name in self.names else 0):
            self.told[self.world.vfs.lookup(ROOT_INO, name).ino] += 1

    @rule(part=st.integers(0, 3))
    def list(self, part: int) -> None:
        handle = self.world.vfs.opendir(ROOT_INO)
        for number, entry in enumerate(self.world.vfs.readdir(handle, 2)):
            if number == part:
                break
            self.world.vfs.count_lookup(entry.attributes.ino)
            self.told[entry.attributes.ino] += 1
        self.world.vfs.releasedir(handle)

    @rule(name=st.sampled_from([b"a", b"b", b"c"]), new=st.sampled_from([b"a", b"b", b"c"]))
    def link(self, name: bytes, new: bytes) -> None:
        if name in self.names and new not in self.names:
            ino = self.names[new] = self.names[name]
            self.world.vfs.link(ino, ROOT_INO, new)
            self.told[ino] += 1

    @rule(name=st.sampled_from([b"a", b"b", b"c"]))
    def unlink(self, name: bytes) -> None:
        if self.names.pop(name, None) is not None:
            self.world.vfs.unlink(ROOT_INO, name)

    @rule(chance=st.randoms(use_true_random=False), keep=st.integers(0, 2))
    def forget(self, chance: random.Random, keep: int) -> None:
        batch = []
        for ino, count in list(self.told.items()):
            taken = max(0, count - keep) if chance.random() < 0.7 else 0
            if taken:
                batch.append((ino, taken))
                self.told[ino] -= taken
        self.world.vfs.forget(batch)

    @rule()
    def release(self) -> None:
        if self.handles:
            self.world.vfs.release(self.handles.popitem()[0])

    @invariant()
    def all_that_is_used_is_there_and_nothing_else(self) -> None:
        used = {ROOT_INO, *self.names.values(), *self.handles.values(), *(+self.told)}
        assert self.world.inodes() == len(used)
        for ino in self.told:
            if ino in used:
                assert self.world.vfs.getattr(ino).ino == ino
            else:
                with pytest.raises(NoSuchName):
                    self.world.vfs.getattr(ino)

    def teardown(self) -> None:
        self.world.close()


def test_an_inode_lives_as_long_as_a_name_a_lookup_or_a_handle(tmp_path: Path) -> None:
    Kernel.path = tmp_path
    run_state_machine_as_test(
        Kernel, settings=settings(max_examples=40, stateful_step_count=30, deadline=None)
    )
