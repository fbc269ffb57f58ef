"""The ledger's instants. Standard library only."""

from __future__ import annotations

import datetime

__all__ = ["utc_now"]


def utc_now() -> datetime.datetime:
    """Now in UTC, naive, as the ledger's TIMESTAMP columns hold it."""
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
