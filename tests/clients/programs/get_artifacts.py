"""A job that gets artifacts through ClearML's cache: URL COUNT. Twice: misses, then hits."""

import os
import random
import statistics
import sys
import time

from answering import answer


def main() -> None:
    address, count = sys.argv[1], int(sys.argv[2])
    from clearml import StorageManager

    StorageManager.set_cache_file_limit(count * 2)
    seconds: dict[str, list[float]] = {"miss": [], "hit": []}
    wrong = 0
    for kind in ("miss", "hit"):
        for number in range(count):
            start = time.perf_counter()
            path = StorageManager.get_local_copy(f"{address}/artifacts/{number}.bin")
            seconds[kind].append(time.perf_counter() - start)
            with open(path, "rb") as file:
                wrong += file.read() != random.Random(number).randbytes(2000)
    late = {kind: statistics.median(times[-200:]) for kind, times in seconds.items()}
    early = {kind: statistics.median(times[:200]) for kind, times in seconds.items()}
    answer(wrong=wrong, early=early, late=late, files=len(os.listdir(os.path.dirname(path))))


main()
