"""The Celery application under test: a no-op task and one that notes its start."""

import os
import time

from billiard import current_process
from celery import Celery
from celery.signals import worker_process_init, worker_ready

from celery_board import Board

app = Celery("peer", broker=os.environ["REDIS_URL"])
app.conf.update(
    task_ignore_result=True,
    worker_prefetch_multiplier=int(os.environ.get("CELERY_PREFETCH", "100")),
    worker_enable_remote_control=False,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
)

board = Board(os.environ["PEER_BOARD"])
slot = int(os.environ.get("PEER_SLOT", "0"))


@worker_process_init.connect
def take_pool_slot(**_):
    global slot
    slot = current_process().index


@worker_ready.connect
def announce(**_):
    board.ready(int(os.environ["PEER_SLOT"]))


@app.task
def noop():
    board.count(slot)


@app.task
def stamp(index):
    board.started(index, time.time_ns())
