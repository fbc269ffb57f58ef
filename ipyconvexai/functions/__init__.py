"""Queries, mutations and actions: defined, checked, run and scheduled."""
