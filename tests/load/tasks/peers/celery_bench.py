"""Drives the Celery workers and prints the figures as one line of JSON."""

import json
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import celery
import redis

from celery_board import WORKERS, Board

TASKS = int(os.environ.get("TASKS", "20000"))
IDLE = int(os.environ.get("IDLE", "300"))
POOL = os.environ.get("CELERY_POOL", "solo")
PRODUCERS = int(os.environ.get("CELERY_PRODUCERS", "2"))
WARM_UP = 1000
DISCARDED = 20
STALL_S = 60


def start_workers():
    plans = [["-P", "solo"]] * WORKERS if POOL == "solo" else [["-c", str(WORKERS)]]
    return [
        subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "celery_app", "worker"]
            + ["-n", f"peer{slot}@localhost", "-l", "warning", *plan]
            + ["--without-gossip", "--without-mingle", "--without-heartbeat"],
            cwd=Path(__file__).parent,
            env={**os.environ, "PEER_SLOT": str(slot)},
            stdout=sys.stderr,
        )
        for slot, plan in enumerate(plans)
    ]


def stop_workers(workers):
    for worker in workers:
        worker.send_signal(signal.SIGTERM)
    for worker in workers:
        try:
            worker.wait(10)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


def await_value(read, wanted, workers, pause=0.005):
    """Waits until `read()` reaches `wanted`, for as long as it makes progress."""
    seen, deadline = None, time.monotonic() + STALL_S
    while (value := read()) < wanted:
        now = time.monotonic()
        if value != seen:
            seen, deadline = value, now + STALL_S
        if any(worker.poll() is not None for worker in workers):
            raise RuntimeError("a worker has exited")
        if now > deadline:
            raise RuntimeError(f"no progress at {value} of {wanted}")
        time.sleep(pause)


def produce(count, barrier):
    """One producer process: connects, waits for the others, then enqueues."""
    from celery_app import app, noop

    with app.producer_pool.acquire(block=True) as producer:
        producer.connection.ensure_connection()
        producer.channel
        barrier.wait(STALL_S)
        for _ in range(count):
            noop.apply_async(producer=producer)


def run_rate(board, workers, count):
    """Returns (enqueued per second, completed per second)."""
    wanted = board.completed() + count
    shares = [(count + turn) // PRODUCERS for turn in range(PRODUCERS)]
    barrier = multiprocessing.Barrier(PRODUCERS + 1)
    producers = [
        multiprocessing.Process(target=produce, args=(share, barrier), daemon=True)
        for share in shares
    ]
    for producer in producers:
        producer.start()
    barrier.wait(STALL_S)
    begin = time.perf_counter()
    for producer in producers:
        producer.join()
        if producer.exitcode != 0:
            raise RuntimeError("a producer has failed")
    enqueued = time.perf_counter()
    await_value(board.completed, wanted, workers)
    completed = time.perf_counter()
    return count / (enqueued - begin), count / (completed - begin)


def run_idle(board, workers):
    """Returns the milliseconds from before each enqueue call to the task's start."""
    from celery_app import app, stamp

    waits = []
    with app.producer_pool.acquire(block=True) as producer:
        for index in range(IDLE):
            before = time.time_ns()
            stamp.apply_async((index,), producer=producer)
            await_value(lambda: board.start_of(index), 1, workers, pause=0.001)
            waits.append((board.start_of(index) - before) / 1e6)
            time.sleep(0.01)
    return waits[DISCARDED:]


def process_tree(pid):
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid] + [p for child in children for p in process_tree(int(child))]


def memory_mb(workers):
    kilobytes = 0
    for pid in (p for worker in workers for p in process_tree(worker.pid)):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                kilobytes += int(line.split()[1])
    return kilobytes / 1024


def main():
    store = redis.Redis.from_url(os.environ["REDIS_URL"])
    store.flushdb()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PEER_BOARD"] = f"{folder}/board"
        board = Board.create(os.environ["PEER_BOARD"])
        workers = []
        try:
            workers = start_workers()
            await_value(board.ready_workers, len(workers), workers)
            run_rate(board, workers, WARM_UP)
            enqueue_rate, rate = run_rate(board, workers, TASKS)
            time.sleep(1)
            waits = run_idle(board, workers)
            memory = memory_mb(workers)
        finally:
            stop_workers(workers)
            store.flushdb()
    percentiles = statistics.quantiles(waits, n=100, method="inclusive")
    print(json.dumps({
        "peer": "celery",
        "version": celery.__version__,
        "enqueue_one_by_one_per_s": round(enqueue_rate),
        "rate_per_s": round(rate),
        "start_p50_ms": round(percentiles[49], 2),
        "start_p99_ms": round(percentiles[98], 2),
        "memory_mb": round(memory, 1),
    }))


if __name__ == "__main__":
    main()
