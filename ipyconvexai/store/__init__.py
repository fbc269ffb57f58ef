"""The store: the only door to DuckDB. Floor 1: calls errors, ids and values.

``open_store(path)`` gives a ``Store``; ``Ledger`` speaks of requests and responses on top of it.
"""
