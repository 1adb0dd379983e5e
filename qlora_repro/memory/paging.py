"""A paged optimizer in simulation: how much of its state leaves a device, and what that costs.

Unified memory lets the states of a paged optimizer lie outside of a GPU that is full and brings
them back when they are read (Section 3). The paper gives one observation, no slowdown for 65B on
48 GB with batches of 16, and no measurement. This is arithmetic over a plan, not a measurement.
"""

from dataclasses import dataclass

from qlora_repro.errors import RunError


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What a run asks of a device, bytes."""

    state: int  # the optimizer's, which can page
    busy: int  # at the fullest moment of forward and backward pass, without the state
    stepping: int  # while the optimizer steps, without the state


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one optimizer step moves over the bus."""

    step: int  # from 1
    paged_out: int  # bytes, device to host
    paged_in: int  # bytes, host to device
    seconds: float


def moved(demand: Demand, memory: int) -> int:
    """Return the bytes of state that each step moves out, and the same back in.

    Activations push out what of the state does not fit beside them. If the step itself has room for
    the whole state, that much comes back. If it has not, the step reads the state once from end to
    end, each part of it pushing out the one least recently used, which is the part that it needs
    next: all of it moves. Raises RunError for a run that does not fit without any state.

    >>> moved(Demand(state=4, busy=6, stepping=3), 10)
    0
    >>> moved(Demand(state=4, busy=8, stepping=3), 10)
    2
    >>> moved(Demand(state=4, busy=8, stepping=7), 10)
    4
    """
    least = max(demand.busy, demand.stepping)
    if least > memory:
        raise RunError(
            f"without any optimizer state the run takes {least / 1e9:.2f} GB, and the device has "
            f"{memory / 1e9:.2f} GB; paging cannot help"
        )
    if demand.stepping + demand.state > memory:
        return demand.state
    return max(0, demand.busy + demand.state - memory)


def simulate(demand: Demand, memory: int, *, bus: float, steps: int) -> list[Step]:
    """Return what each step moves; `memory` in bytes, `bus` in GB/s.

    The first step makes the state, so nothing can have been pushed out before it. Traffic in the
    two directions takes turns: a page comes in where one has gone out. Raises RunError as `moved`.

    >>> [s.seconds for s in simulate(Demand(state=4, busy=8, stepping=3), 10, bus=1e-9, steps=2)]
    [0.0, 4.0]
    """
    each = moved(demand, memory)
    found = []
    for step in range(1, steps + 1):
        now = each if step > 1 else 0
        found.append(Step(step=step, paged_out=now, paged_in=now, seconds=2 * now / (bus * 1e9)))
    return found
