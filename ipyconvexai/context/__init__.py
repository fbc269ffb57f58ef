"""What of the user's own goes into a prompt: frames, variables. Floor 2: calls settings, and the user's objects.

Promises: the environment and its keys go into none; the same value gives the same text in every run.
"""
