"""A reproduction and ablation harness for QLoRA (Dettmers et al., 2023, arXiv 2305.14314)."""

import logging

__version__ = "0.1.0"

# On CPUs with AVX512-BF16 its import says that an optional kernel package is missing.
logging.getLogger("bitsandbytes.backends").setLevel(logging.ERROR)
