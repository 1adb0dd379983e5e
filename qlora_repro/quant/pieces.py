"""Work on a long tensor in pieces that fit a core's cache, each core on pieces of its own."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


def in_pieces(work: Callable[[int, int], None], n: int, *, step: int) -> None:
    """Call work(start, stop) for every `step` of n, in as many threads as torch may use.

    Meanwhile torch's own operations stay in the thread that calls them. Left to itself torch splits
    each operation over the cores and waits for all of them at its end, which costs more than the
    operation when another process holds a core. Each piece is computed alike in any number of
    threads. Raises what `work` raises.
    """
    starts = range(0, n, step)
    threads = min(torch.get_num_threads(), len(starts))

    def run(own: range) -> None:
        for start in own:
            work(start, min(start + step, n))

    if threads <= 1:
        run(starts)
        return
    share = -(-len(starts) // threads)
    with one_thread(), ThreadPoolExecutor(threads - 1) as pool:
        others = [pool.submit(run, starts[i : i + share]) for i in range(share, len(starts), share)]
        run(starts[:share])  # a core that only waited would be one too few
        for other in others:
            other.result()


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch's own operations in the thread that calls them.

    Its other threads go on spinning for a while after each operation, on cores wanted here.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
