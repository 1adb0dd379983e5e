"""Work on a long tensor in pieces that fit a core's cache, each core on pieces of its own."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

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
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(run, [starts[i : i + share] for i in range(0, len(starts), share)]))
    finally:
        torch.set_num_threads(before)
