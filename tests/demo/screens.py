"""Pictures of status, top and report for the README, made by the tools themselves on a real mount.

`make screens` writes them to docs/screens. Four ranks write the same Arrow-like files behind heads of
their own for about a minute; what the pictures show is what the mount says.
"""

from __future__ import annotations

import asyncio
import io
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from PIL import Image
from rich.console import Console

from dedupfs.cli import render
from dedupfs.cli.top_screen import Top
from dedupfs.service import report, survey

OUT = Path(__file__).parents[2] / "docs" / "screens"
RANKS = 4
ROUNDS = 200
PART = 1 << 20
MAX_BYTES = 60_000


def main() -> int:
    browser = shutil.which("chromium")
    if browser is None:
        print("chromium is missing: scripts/system-packages browser", file=sys.stderr)
        return 1
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="screens-") as base:
        mount = Path(base) / "cache"
        mount.mkdir()
        dedupfs("mount", mount)
        try:
            show(mount, browser)
        finally:
            dedupfs("umount", mount)
    for path in sorted(OUT.iterdir()):
        print(f"{path.relative_to(OUT.parents[1])}: {path.stat().st_size} bytes")
        assert path.stat().st_size < MAX_BYTES, f"{path} is too large for a README"
    return 0


def dedupfs(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "dedupfs.cli", *map(str, arguments)], check=True)


def show(mount: Path, browser: str) -> None:
    writer = threading.Thread(target=write, args=(mount,))
    writer.start()
    time.sleep(15)
    picture_of_top(mount)
    writer.join()
    picture_of_status(mount)
    picture_of_report(mount, browser)


def write(mount: Path) -> None:
    """Let each rank write the same parts, each behind a head and beside a log of its own."""
    pick = random.Random(1)
    folders = [mount / f"hf_datasets-rank{rank}" for rank in range(RANKS)]
    for folder in folders:
        folder.mkdir()
    files = [open(folder / "train.arrow", "wb", buffering=0) for folder in folders]  # noqa: SIM115
    for number, file in enumerate(files):
        file.write(f"fingerprint {number:04}".encode())
    for turn in range(ROUNDS):
        part = pick.randbytes(PART)
        for rank, (file, folder) in enumerate(zip(files, folders, strict=True)):
            file.write(part)
            if turn % (5 * rank + 5) == 0:
                (folder / f"log-{turn}").write_bytes(os.urandom(200_000))
            with open(folder / "train.arrow", "rb", buffering=0) as mine:
                mine.seek(-PART // 8, os.SEEK_END)
                mine.read(PART // 8)
        time.sleep(0.2)
    for file in files:
        file.close()


def picture_of_status(mount: Path) -> None:
    document = report.of_path(mount)
    found = survey.units(Path(str(document["store"])), limit=10)
    document |= {
        "units": found["units"], "units_count": found["count"],
        "units_as_of_s": found["as_of_s"],
    }  # fmt: skip
    console = Console(record=True, width=80, file=io.StringIO(), force_terminal=True)
    console.print(render.view(shown(document)))
    save("status.svg", console.export_svg(title="dedupfs status ~/cache"))


def shown(document: dict[str, object]) -> dict[str, object]:
    """Return the status with paths that say more than a temporary folder."""
    return document | {"mountpoint": "/home/me/cache", "store": "/home/me/.cache.dedupfs"}


def picture_of_top(mount: Path) -> None:
    app = Top(survey.only_mount(mount), interval_s=1.0, name="/home/me/cache")

    async def run() -> str:
        async with app.run_test(size=(80, 24)) as pilot:
            await pilot.pause(18)
            await pilot.press("r")
            await pilot.pause(2)
            return app.export_screenshot(title="dedupfs top ~/cache")

    save("top.svg", asyncio.run(run()))


def picture_of_report(mount: Path, browser: str) -> None:
    with tempfile.TemporaryDirectory(prefix="screens-page-") as folder:
        page, picture = Path(folder) / "page.html", Path(folder) / "page.png"
        dedupfs("report", page, mount)
        page.write_text(page.read_text().replace(str(mount), "/home/me/cache").replace(
            str(mount.parent / ".cache.dedupfs"), "/home/me/.cache.dedupfs"))  # fmt: skip
        subprocess.run(
            [
                browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                "--disable-dev-shm-usage", f"--user-data-dir={folder}/profile",
                "--window-size=960,1320", f"--screenshot={picture}", page.as_uri(),
            ],
            check=True, capture_output=True, timeout=60,
        )  # fmt: skip
        Image.open(picture).convert("RGB").save(OUT / "report.webp", quality=70, method=6)


def save(name: str, svg: str) -> None:
    """Write a picture without the web font that viewers of a README do not load."""
    svg = re.sub(r"@font-face\s*\{[^}]*\}", "", svg)
    (OUT / name).write_text(svg.replace("Fira Code", "DejaVu Sans Mono"))


if __name__ == "__main__":
    sys.exit(main())
