"""Where a copy of the authors' released files is, for tests that read one."""

import os
from pathlib import Path

SHARED = Path(os.environ.get("QLORA_SHARED", Path(__file__).resolve().parents[2] / "shared"))
RELEASE = SHARED / "qlora-release"
