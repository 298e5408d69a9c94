"""The CPU time of a sealed upload's end: its final record, its receipt, and the removal of the server's key.

python -m tests.bench.sealing [UPLOADS]
"""

import argparse
import asyncio
import resource
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from dropoff_tus.model import Mode
from storage.uploads.shredding import seal
from tests.support.store_kit import StoreKit

_WARM_UPS = 10


def _cpu_ms() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return (used.ru_utime + used.ru_stime) * 1000


async def _measure(kit: StoreKit, uploads: int) -> tuple[list[float], list[float]]:
    ending, sealing = [], []
    for _ in range(uploads + _WARM_UPS):
        _, upload = await kit.create(1024)
        await kit.append(upload.id, 0, bytes(1024))
        async with kit.store.lease(upload.id) as lease:
            digests = await lease.digests([], read_back_bytes=0)
            before = _cpu_ms()
            await lease.complete(digests or {}, datetime.now(UTC))
            ending.append(_cpu_ms() - before)
        before = _cpu_ms()
        # Once more by itself: it does the same steps, with nothing left to unlink.
        seal(kit.store.base, kit.store.load(upload.id))
        sealing.append(_cpu_ms() - before)
    return ending[_WARM_UPS:], sealing[_WARM_UPS:]


def main(uploads: int) -> None:
    """Make, finish and seal uploads of both key types, one after the other, and print CPU a piece."""
    for key_type in ("x25519", "hybrid"):
        with tempfile.TemporaryDirectory(prefix="sealing-") as folder:
            kit = StoreKit(Path(folder), mode=Mode.SEALED, key_type=key_type)
            ending, sealing = asyncio.run(_measure(kit, uploads))
        print(f"{key_type}, {uploads} uploads, CPU-ms each as median (mean):")
        print(f"  final record, receipt and sealing {median(ending):.2f} ({sum(ending) / uploads:.2f})")
        print(f"  of which sealing {median(sealing):.2f} ({sum(sealing) / uploads:.2f})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench.sealing", description=__doc__)
    parser.add_argument("uploads", nargs="?", type=int, default=300, help="how many of each key type (300)")
    main(parser.parse_args().uploads)
