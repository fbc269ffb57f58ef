"""Four processes use one ledger at the same time: none stops the others, and nothing is left behind them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

from ipyconvexai.store.link import KeeperStore
from tests.store.helpers import add, child, finish, keepers_of, line_of, titles, wait_for

# Each thread writes down what was acknowledged, as soon as it was, in a file of its process; stdin's end is the sign
# to finish.
WORKER = """
import json
path, log, heavy = sys.argv[1], sys.argv[2], sys.argv[3] == 'heavy'
store = open_store(path)
stop = threading.Event()
waits = []
def write():
    while not stop.is_set():
        key, begun = new_id(), time.monotonic()
        append(store, row('x' * 5000, key)).result(60)
        waits.append(time.monotonic() - begun)
        with lock: file.write(key + '\\n'); file.flush()
lock, file = threading.Lock(), open(log, 'w')
append(store, row('warm')).result(60)
print('ready', flush=True)
sys.stdin.readline()
threads = [threading.Thread(target=write) for _ in range(4)]
for thread in threads: thread.start()
if heavy:
    def compute():
        while not stop.is_set(): sum(number * number for number in range(100_000))
    threads.append(threading.Thread(target=compute))
    threads[-1].start()
sys.stdin.read()
stop.set()
for thread in threads: thread.join()
waits.sort()
print(json.dumps([len(waits), waits[len(waits) // 2], waits[int(len(waits) * 0.99)], waits[-1]]))
store.close()
file.close()
"""


def start(ledger: str, tmp_path: Path, heavy: int) -> list[subprocess.Popen[str]]:
    """Four workers, the first `heavy` of them computing in pure Python at the same time."""
    kinds = ["heavy" if number < heavy else "light" for number in range(4)]
    workers = [child(WORKER, ledger, tmp_path / f"{number}.log", kind) for number, kind in enumerate(kinds)]
    assert [line_of(worker) for worker in workers] == ["ready"] * 4
    for worker in workers:  # together: a process that starts takes the processors from the others
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    return workers


def acknowledged(tmp_path: Path) -> list[str]:
    return [key for number in range(4) for key in (tmp_path / f"{number}.log").read_text().split()]


def wait_for_more(tmp_path: Path, rows: int) -> None:
    before = len(acknowledged(tmp_path))
    wait_for(lambda: len(acknowledged(tmp_path)) > before + rows, "work to go on", 60)


def test_one_process_that_computes_does_not_stop_the_others(ledger: str, tmp_path: Path, store: KeeperStore):
    workers = start(ledger, tmp_path, heavy=1)
    wait_for_more(tmp_path, 1500)
    reports = [json.loads(finish(worker)) for worker in workers]
    for name, (count, half, most, worst) in zip(("computing", *["not"] * 3), reports, strict=True):
        print(
            f"\n{name:9}: {count} rows, p50 {half * 1e3:.0f} ms, p99 {most * 1e3:.0f} ms, max {worst * 1e3:.0f} ms",
            end="",
        )
    # The structure behind the figures: the file is held by a process that runs none of its clients' Python.
    (keeper,) = keepers_of(ledger)
    assert keeper not in {worker.pid for worker in workers}
    assert all(report[0] > 50 for report in reports), "one was starved"
    assert {key for (key,) in store.read("SELECT id::VARCHAR FROM conversations")} >= set(acknowledged(tmp_path))


def test_nothing_is_left_after_the_last_of_four(ledger: str, tmp_path: Path, temporary: Path):
    workers = start(ledger, tmp_path, heavy=0)
    os.kill(keepers_of(ledger)[0], signal.SIGKILL)
    for worker in workers:
        finish(worker)
    wait_for(lambda: not keepers_of(ledger), "the keeper to end")
    wait_for(lambda: not Path(f"{ledger}.keeper").exists(), "its folder to go")
    assert not list(temporary.iterdir())
    assert [file.name for file in Path(ledger).parent.iterdir()] == ["ledger.duckdb"]
    again = KeeperStore(ledger)
    add(again, "again")
    assert titles(again)[-1] == "again"
    again.close()
