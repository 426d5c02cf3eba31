"""What this process has done so far, for the live line and for stopping a run that cannot succeed."""

from __future__ import annotations

import threading
from collections import defaultdict

from transforms.records import Receipt, ScoreBatch


class Tally:
    """Counts one run's images in one process; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._scored = 0
        self._failed = 0
        self._passed_over = 0
        self._receipts: dict[str, dict[int, Receipt]] = defaultdict(dict)

    def add_batch(self, batch: ScoreBatch) -> None:
        """Count a batch that was scored."""
        with self._lock:
            self._scored += len(batch.images) + len(batch.failures)
            self._failed += len(batch.failures)

    def add_passed_over(self, receipt: Receipt) -> None:
        """Count a target that an earlier run had done."""
        with self._lock:
            self._passed_over += receipt.rows + receipt.failures
        self.add_receipt(receipt)

    def add_receipt(self, receipt: Receipt) -> None:
        """Count a target as committed; one that is reported twice counts once."""
        with self._lock:
            self._receipts[receipt.variant][receipt.unit] = receipt

    def committed(self, variant: str) -> tuple[int, int]:
        """Images in the variant's committed targets, and how many of them have no row."""
        with self._lock:
            receipts = self._receipts[variant].values()
            failed = sum(receipt.failures for receipt in receipts)
            return failed + sum(receipt.rows for receipt in receipts), failed

    def snapshot(self) -> tuple[int, int, int]:
        """Images scored, of these failed, and images passed over, each counted once a variant."""
        with self._lock:
            return self._scored, self._failed, self._passed_over


_tallies: dict[str, Tally] = defaultdict(Tally)


def of_run(run_id: str) -> Tally:
    """This process's tally of a run."""
    return _tallies[run_id]
