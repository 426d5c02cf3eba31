"""Where a run's time went, and what would make it faster."""

from __future__ import annotations

from collections.abc import Iterable

from transforms.fetching import READ_THREADS
from transforms.footers import Footer
from transforms.records import StepSeconds

ADVICE = {
    "storage": "bring the images nearer (same region, local disk), or take more workers",
    "decode": "take more CPU cores for each device, or smaller images",
    "model": "take --precision fast, a smaller variant, a GPU or more workers",
    "write": "take a faster output, or more --images-per-unit",
}
PLACES = {"wait": "waiting for images", "model": "the model", "write": "writing"}


def verdict(footers: Iterable[Footer], run_id: str, precision: str) -> str:
    """One line: which step the run waited for most, how much of its time that was, and what to change.

    The chain of each harness thread is always in one of three places: waiting for the next image, in the model or
    in the output. Where it mostly waits for images, storage or decoding is slow, whichever has the busier threads.

    Args:
        footers: Of all rows files; those of other runs do not count.
        run_id: This run.
        precision: Of this run.
    """
    footers = [footer for footer in footers if footer.run == run_id]
    total = sum((footer.seconds for footer in footers), StepSeconds())
    share = _shares(total)
    if not share:
        return "nothing was left to do"
    place = max(share, key=lambda step: share[step])
    bottleneck = _slower_source(total, footers) if place == "wait" else place
    advice = ADVICE[bottleneck]
    if precision == "fast":
        advice = advice.replace("--precision fast, ", "")
    return (
        f"bottleneck: {bottleneck}. Of the time {share['wait']:.0%} went into waiting for images, "
        f"{share['model']:.0%} into the model, {share['write']:.0%} into writing. To go faster, {advice}."
    )


def longest(total: StepSeconds) -> str:
    """Where most of the time went, in words; empty where there was none."""
    share = _shares(total)
    return PLACES[max(share, key=lambda step: share[step])] if share else ""


def _shares(total: StepSeconds) -> dict[str, float]:
    """The part of the chain's time that each place has; none where there was no time."""
    chain = {"wait": total.wait, "model": total.model, "write": total.write}
    whole = sum(chain.values())
    return {step: value / whole for step, value in chain.items()} if whole else {}


def _slower_source(total: StepSeconds, footers: list[Footer]) -> str:
    """Fetching or decoding, each by the threads that it had in a process."""
    facts = (footer.model.get("decode_threads") for footer in footers)
    decode_threads = max((count for count in facts if isinstance(count, int)), default=1)
    return "storage" if total.fetch / READ_THREADS > total.decode / decode_threads else "decode"
