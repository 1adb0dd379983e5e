"""A judge in a process of its own, which a test can kill: python judging.py PICKLE FOLDER."""

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from qlora_repro.config.schema import JudgeConfig
from qlora_repro.judge.openai import judge_openai
from qlora_repro.records import Match

ROOT = Path(__file__).resolve().parents[3]


def start(
    matches: Sequence[Match], cfg: JudgeConfig, folder: Path, **env: str
) -> subprocess.Popen[str]:
    """Start a process that judges; its output can be read at its end."""
    folder.mkdir(exist_ok=True)
    given = folder / "given.pickle"
    given.write_bytes(pickle.dumps((list(matches), cfg)))
    return subprocess.Popen(
        [sys.executable, __file__, str(given), str(folder)],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


if __name__ == "__main__":
    judge_openai(*pickle.loads(Path(sys.argv[1]).read_bytes()), Path(sys.argv[2]))
