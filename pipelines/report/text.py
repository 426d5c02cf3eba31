"""Numbers, times and names as a person reads them."""

from __future__ import annotations

import time


def number(value: float) -> str:
    """`12,345`, `123.4`, `1.23`, `0.012`: three digits or all before the point."""
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3g}"


def percent(share: float) -> str:
    """`99.1%`; never 0% or 100% of what is not."""
    if 0 < share < 0.001:
        return "<0.1%"
    if 0.999 < share < 1:
        return ">99.9%"
    return f"{share:.0%}" if share in (0, 1) else f"{share:.1%}"


def duration(seconds: float) -> str:
    """`4 ms`, `0.4 s`, `12 s`, `3 min 20 s`, `5 h 12 min`: exact enough to be compared."""
    if seconds < 0.1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    hours, left = divmod(minutes, 60)
    return f"{hours:,} h {left} min" if hours else f"{minutes} min {rest} s"


def moment(unix_seconds: float) -> str:
    """`2026-11-21 05:12 UTC`."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(unix_seconds))


def short_name(uri: str) -> str:
    """The last part of a path, a URL or a member of a container."""
    container, colons, member = uri.rpartition("::")
    if colons and "/" not in member:
        return f"{container.rpartition('/')[2]}::{member}"
    return uri.rpartition("/")[2] or uri
