"""The jobs of a line, one after another or in processes of their own; each has one thread, so that figures depend on
neither the number of workers nor of cores."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from typing import TypeVar

import torch

Job = TypeVar("Job")


def performed(jobs: Sequence[Job], perform: Callable[[Job], Job], workers: int) -> Iterator[Job]:
    """Each job as it ends; in processes of their own where there are several workers.

    perform: a function of a module, so that another process finds it.
    """
    if workers == 1:
        for job in jobs:
            with _one_thread():
                yield perform(job)
        return
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawning, initializer=_begin_worker) as pool:
        for future in as_completed([pool.submit(perform, job) for job in jobs]):
            yield future.result()


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _begin_worker() -> None:
    """One thread; and a worker whose parent was killed ends, or it would write into the run that is resumed next."""
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
