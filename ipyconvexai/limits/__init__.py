"""Limits as pure decisions: ``decide(rule, state, now)``. Floor 0: calls errors only; no clock, no I/O, no threads."""
