import subprocess
import sys
from pathlib import Path

import pytest
import torch

from qlora_repro.quant.blockwise import quantize
from qlora_repro.quant.codebooks import make_codebook


def test_an_error_in_one_piece_is_raised_and_the_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    weight = torch.randn(1 << 19)
    weight[-1] = torch.inf
    with pytest.raises(ValueError, match="1 of 524288 weights are NaN or infinite"):
        quantize(weight, make_codebook("nf4"), blocksize=64)
    assert torch.get_num_threads() == before


MEASURE = """
import re, resource, sys, torch
from qlora_repro.quant.blockwise import quantize
from qlora_repro.quant.codebooks import make_codebook

def resident(field):
    return int(re.search(field + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024

book = make_codebook("nf4")
quantize(torch.randn(1 << 18).bfloat16(), book, blocksize=64)
weight = torch.empty(1 << 26, dtype=torch.bfloat16).normal_()
open("/proc/self/clear_refs", "w").write("5")  # the peak so far is forgotten
before = resident("VmRSS")
quantize(weight, book, blocksize=64)
print((resident("VmHWM") - before) / weight.nbytes)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_quantizing_takes_less_than_the_tensor_again_codes_included() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True
    )
    # the codes alone, a byte each, take half of a bf16 tensor
    assert 0.5 < float(done.stdout) < 1.0
