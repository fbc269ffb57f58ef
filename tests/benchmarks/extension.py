"""``%load_ext ipyconvexai``: CPU over a bare IPython shell, and of it the import of the package.

Whole processes are compared, from their start to their end with the threads and children they had, so that nothing
can hide in the background or at exit.
"""

from __future__ import annotations

import statistics
import time

from tests.benchmarks.measuring import Child, Figure

RUNS = 9


def shell(load: bool) -> float:
    """Makes a shell, with the extension or without; gives the CPU milliseconds of importing the package."""
    from IPython.core.interactiveshell import InteractiveShell

    current = InteractiveShell.instance()
    if not load:
        current.run_cell("1", store_history=False)
        return 0.0
    started = time.process_time()
    import ipyconvexai  # noqa: F401 - its import is what is measured

    imported = (time.process_time() - started) * 1000
    manager = current.extension_manager
    assert manager is not None
    manager.load_extension("ipyconvexai")  # as %load_ext, which would print an error and go on
    current.run_cell("1", store_history=False)
    return imported


def run() -> list[Figure]:
    bare: list[float] = []
    loaded: list[float] = []
    imports: list[float] = []
    shell_once(load=True)  # compiles what is not compiled yet
    for _ in range(RUNS):
        bare.append(shell_once(load=False)[0])
        cpu, imported = shell_once(load=True)
        loaded.append(cpu)
        imports.append(imported)
    base, whole = statistics.median(bare), statistics.median(loaded)
    return [
        Figure(
            "%load_ext ipyconvexai, CPU over a bare shell", whole - base, "ms", at_most=150,
            ratio=whole / base, baseline="bare IPython",
        ),
        Figure("  of it: import ipyconvexai", statistics.median(imports), "ms", at_most=30),
    ]  # fmt: skip


def shell_once(*, load: bool) -> tuple[float, float]:
    """(CPU milliseconds of the whole process, of the import)."""
    child = Child(shell, load=load)
    imported = child.result()
    return child.cpu * 1000, imported
