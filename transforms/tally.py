"""What this process has done so far, for the live line and for stopping a run that cannot succeed."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict

from transforms.records import Receipt, ScoreBatch


class Tally:
    """Counts one run's images in one process; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._scored = 0
        self._failed = 0
        self._passed_over = 0
        self._seen: set[tuple[str, int]] = set()
        self._done: Counter[str] = Counter()
        self._failed_here: Counter[str] = Counter()

    def add_batch(self, batch: ScoreBatch) -> None:
        """Count a batch that was scored."""
        with self._lock:
            self._scored += len(batch.images) + len(batch.failures)
            self._failed += len(batch.failures)

    def add_passed_over(self, receipt: Receipt) -> None:
        """Count a target that an earlier run had done; its failures were that run's."""
        with self._lock:
            self._passed_over += receipt.rows + receipt.failures
        self._add(receipt, failed=0)

    def add_receipt(self, receipt: Receipt) -> None:
        """Count a target as committed by this run; one that is reported twice counts once."""
        self._add(receipt, receipt.failures)

    def committed(self, variant: str) -> tuple[int, int]:
        """Images in the variant's committed targets, and how many of them failed in this run."""
        with self._lock:
            return self._done[variant], self._failed_here[variant]

    def _add(self, receipt: Receipt, failed: int) -> None:
        with self._lock:
            if (receipt.variant, receipt.unit) not in self._seen:
                self._seen.add((receipt.variant, receipt.unit))
                self._done[receipt.variant] += receipt.rows + receipt.failures
                self._failed_here[receipt.variant] += failed

    def snapshot(self) -> tuple[int, int, int]:
        """Images scored, of these failed, and images passed over, each counted once a variant."""
        with self._lock:
            return self._scored, self._failed, self._passed_over


_tallies: dict[tuple[str, str], Tally] = defaultdict(Tally)


def of_run(output: str, run_id: str) -> Tally:
    """This process's tally of a run; a run's name alone is not unique, as two may begin within a second."""
    return _tallies[output, run_id]
