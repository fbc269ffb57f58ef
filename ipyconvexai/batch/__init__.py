"""Batches: frames -> documents -> results -> frames. Floor 5: calls the app and what is below it."""
