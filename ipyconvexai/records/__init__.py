"""What people ask of their ledger: calls, usage, SQL, export, purge. Floor 3: calls the store and ``relation``."""

from __future__ import annotations

from ipyconvexai.records.ledger import Records

__all__ = ["Records"]
