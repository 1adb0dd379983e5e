"""The levels of each data type: what a code means before its block's absmax scales it."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from qlora_repro.errors import ConfigError
from qlora_repro.quant import codebook_float as floating
from qlora_repro.quant.codebook_abnormal import af4, af4_l1
from qlora_repro.quant.codebook_normal import normal_float


def integer(bits: int) -> Tensor:
    """Return the symmetric k-bit integers over their largest: 2^k - 1 levels.

    -2^(k-1) is left out, since it would have no partner: int4 is -7..7 over 7.
    """
    largest: int = 2 ** (bits - 1) - 1
    return torch.arange(-largest, largest + 1, dtype=torch.float32) / largest


def dynamic8() -> Tensor:
    """Return the signed 8-bit dynamic map that double quantization stores absmax in: 256 levels.

    Seven decades from 1e-6 to 1, the decade of 10^-k holding 2^(6-k) bin centres each side; then 0
    and 1 (not -1). The paper calls this type FP8; the released code uses this map.
    """
    decades = []
    for power in range(7):
        edges = torch.linspace(0.1, 1, 2**power + 1)  # (2^power + 1,)
        decades.append(10 ** (power - 6) * ((edges[:-1] + edges[1:]) / 2))
    positive = torch.cat(decades)  # (127,)
    return torch.cat([-positive.flip(0), torch.zeros(1), positive, torch.ones(1)])


BITS = range(2, 9)
# the same levels at any block size
FIXED: dict[str, Callable[[], Tensor]] = {
    **{f"int{bits}": partial(integer, bits) for bits in BITS},
    **{f"nf{bits}": partial(normal_float, bits) for bits in BITS},
    "fp4": floating.fp4,
    "fp4_e2m1": floating.fp4_e2m1,
    "fp4_e3m0": floating.fp4_e3m0,
    "fp8_e4m3": floating.fp8_e4m3,
    "fp8_e5m2": floating.fp8_e5m2,
    "dynamic8": dynamic8,
}
# levels that follow the block size
SIZED: dict[str, Callable[[int], Tensor]] = {"af4": af4, "af4_l1": af4_l1}
CODEBOOKS = (*FIXED, *SIZED)


def codebook(name: str, *, blocksize: int | None = None) -> Tensor:
    """Return a data type's levels: (K,) float32, ascending, within [-1, 1].

    `blocksize` counts for the types in SIZED, which need it; the others have one set of levels.

    Raises ConfigError for a type without levels, and for one of SIZED without a block size.
    """
    if name in FIXED:
        return FIXED[name]()
    if name not in SIZED:
        raise ConfigError(
            f"dtype {name!r} has no codebook; there is one for {', '.join(CODEBOOKS)}"
        )
    if blocksize is None:
        raise ConfigError(f"the levels of dtype {name!r} depend on the block size; give one")
    return SIZED[name](blocksize)


def code_bits(book: Tensor) -> int:
    """Return the bits one stored code takes, packed: enough to tell the K levels apart.

    >>> [code_bits(codebook(name)) for name in ("int4", "nf4", "int8")]
    [4, 4, 8]
    """
    return (book.numel() - 1).bit_length()
