"""Floating-point data types of 4 and 8 bits: all numbers of one, divided by the largest."""

import torch
from torch import Tensor


def mirror(positive: Tensor) -> Tensor:
    """Return levels -p..., 0, p... of ascending positive levels, the largest scaled to 1."""
    positive = positive / positive.max()
    return torch.cat([-positive.flip(0), torch.zeros(1), positive])


def minifloat(exponent: int, mantissa: int, *, bias: int, reserved: int = 0) -> Tensor:
    """Return the levels of a sign, exponent bits and mantissa bits: (K,) float32, zero once.

    An exponent field of zero holds the subnormals. `reserved` magnitudes at the top stand for
    infinity and NaN and hold no number.
    """
    steps = 2**mantissa
    code = torch.arange(1, 2 ** (exponent + mantissa) - reserved)  # magnitudes above zero
    field, fraction = code // steps, (code % steps) / steps
    lead = (field > 0).float()  # the hidden one that a subnormal lacks
    return mirror(torch.exp2(field.clamp(min=1).float() - bias) * (lead + fraction))


def fp4() -> Tensor:
    """Return bitsandbytes' FP4: +-{0, 0.0625, 2, 3, 4, 6, 8, 12} / 12, 16 codes and 15 numbers.

    Two exponent bits and one mantissa bit, but 0.0052 where OCP's E2M1 has its subnormal 1/12. Zero
    has a code for each sign. bitsandbytes sorts 0.0 before -0.0, so that a weight which rounds to
    zero from above reads -0.0, and so it does here.
    """
    positive = torch.tensor([0.0625, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0]) / 12
    return torch.cat([-positive.flip(0), torch.tensor([0.0, -0.0]), positive])


def fp4_e2m1() -> Tensor:
    """Return OCP's E2M1: two exponent bits with bias 1, one mantissa bit; +-{0, 0.5 ... 6} / 6."""
    return minifloat(2, 1, bias=1)


def fp4_e3m0() -> Tensor:
    """Return E3M0: three exponent bits and no mantissa, seven powers of two each side of zero."""
    return minifloat(3, 0, bias=3)


def fp8_e4m3() -> Tensor:
    """Return OCP's E4M3 over its largest, 448: 253 levels, infinity given up for one more octave.

    Where QLoRA (Section 3) says that double quantization stores its constants in FP8, this is the
    type that the name suggests; the released code uses `dynamic8`.
    """
    return minifloat(4, 3, bias=7, reserved=1)


def fp8_e5m2() -> Tensor:
    """Return OCP's E5M2 over its largest, 57344: 247 levels, with infinity as IEEE 754 has it."""
    return minifloat(5, 2, bias=15, reserved=4)
