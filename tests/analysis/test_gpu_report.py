"""Reports of a GPU, as python -m analysis gpu shows them: here one that was made up."""

import json
from pathlib import Path
from typing import Any

import pytest

from analysis.__main__ import main
from analysis.gpu_report import NONE_YET, find_reports, read_report, render_report
from qlora_repro.errors import StoreError

REPORT: dict[str, Any] = {
    "format": 1,
    "card": "NVIDIA H100 80GB HBM3",
    "memory_bytes": 85_520_809_984,
    "driver": "580.95.05",
    "started": "2026-11-26T17:40:00+00:00",
    "commit": "0123456789abcdef",
    "dirty": False,
    "packages": {"torch": "2.11.0+cu130", "transformers": "5.17.0", "bitsandbytes": "0.50.2"},
    "tiny": False,
    "rates": {"matmul_bf16_tflops": 651.23456, "copy_gb_per_s": 2534.56},
    "a field of later": {"any": "thing"},
    "parts": [
        {
            "number": 1,
            "name": "gpu tests",
            "state": "failed",
            "why": "2 of 31 tests failed:\ntest_a, test_b",
            "seconds": 51.23456,
            "limit_s": 60.0,
            "rows": [],
            "facts": {"passed": 29, "failed": 2},
        },
        {
            "number": 5,
            "name": "7B's shape",
            "state": "passed",
            "why": None,
            "seconds": 140.0,
            "limit_s": 150.0,
            "rows": [
                {"arm": "nf4 + dq", "micro_batch": 16, "tokens_per_second": 12345.678},
                {
                    "arm": "bf16 | lora",
                    "micro_batch": 1,
                    "tokens_per_second": 7071.06,
                    "peak_bytes": 17_345_678_901,
                    "planned_bytes": 17_000_000_000,
                    "step_s": 0.0001234567,
                    "checkpointing": True,
                    "kernels": "none",
                    "note": "a sentence that is too long for a cell of a table in a terminal",
                },
            ],
            "facts": {"largest_ratio": 1.30456, "peak_bytes": 47_950_000_000},
        },
        {"number": 10, "name": "arms", "state": "skipped", "why": "no time was left"},
    ],
}


def write(folder: Path, report: Any) -> Path:
    folder.mkdir(parents=True)
    path = folder / "report.json"
    path.write_text(report if isinstance(report, str) else json.dumps(report))
    return path


def shown(results: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(["gpu", "--results", str(results), "--out", str(out)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_a_report_fits_80_columns_and_its_file_has_whole_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "gpu" / "h100", REPORT)
    code, text, _ = shown(tmp_path / "gpu", tmp_path / "out", capsys)
    assert code == 0
    report, _, _ = text.rpartition("\n\n")
    assert max(map(len, report.splitlines())) <= 80
    assert text.startswith("# GPU report: NVIDIA H100 80GB HBM3\n")
    assert "- parts: 1 passed, 1 failed, 1 skipped\n" in text
    assert "- memory: 85.52 GB\n" in text
    assert "- rates: matmul bf16 651.2 TFLOP/s, copy 2,535 GB/s\n" in text
    assert "failed: 2 of 31 tests failed: test_a, test_b\n" in text
    assert "- peak 47.95 GB\n" in text
    assert text.count("| bf16 \\| lora ") == 2  # the table is split, its first column repeated
    assert "## 10. arms\n\nskipped: no time was left\n" in text

    whole = (tmp_path / "out" / "gpu_h100.md").read_text().splitlines()
    head, rule, first, second = whole[whole.index("- peak 47.95 GB") + 2 :][:4]
    assert [cell.strip() for cell in head.strip("|").split("|")] == [
        *("arm", "micro batch", "tokens per second", "peak GB", "planned GB", "step s"),
        *("checkpointing", "kernels"),
    ]
    assert set(rule) == set("|-: ")
    cells = [" ".join(line.strip("|").split()) for line in (first, second)]
    assert cells == [
        "nf4 + dq | 16 | 12,350 | - | - | - | - | -",
        r"bf16 \| lora | 1 | 7,071 | 17.35 | 17 | 0.0001235 | yes | none",
    ]
    assert f"- bf16 | lora, note: {REPORT['parts'][1]['rows'][1]['note']}" in whole


def test_a_dry_run_is_called_one_and_a_dirty_tree_is_said() -> None:
    text = render_report({**REPORT, "card": None, "tiny": True, "dirty": True})
    assert text.startswith("# GPU report: dry run on a CPU, tiny shapes: a test of the report, no ")
    assert "- code: 0123456789ab, with uncommitted changes: not figures to publish\n" in text


def test_without_a_report_the_command_says_how_to_get_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text, _ = shown(tmp_path, tmp_path / "out", capsys)
    assert (code, text) == (0, NONE_YET + "\n")
    with pytest.raises(StoreError, match=r"--results .*none is not there"):
        find_reports(tmp_path / "none")


def test_a_damaged_report_is_one_sentence_and_the_others_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "gpu" / "a100", '{"format": 1, "parts": [')
    write(tmp_path / "gpu" / "h100", REPORT)
    code, text, error = shown(tmp_path / "gpu", tmp_path / "out", capsys)
    assert code == 1
    assert "# GPU report: NVIDIA H100" in text
    assert error.startswith("error: ")
    assert "a100" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "report",
    [
        *([], {}, {"format": 2, "parts": []}, {"format": 1}, {"format": 1, "parts": [3]}),
        {"format": 1, "parts": [{"name": "x", "state": "passed", "rows": 3}]},
    ],
)
def test_what_is_no_report_of_this_format_is_refused(report: Any, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="GPU report"):
        read_report(write(tmp_path / "card", report))


def test_a_single_file_may_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "card", REPORT)
    code, text, _ = shown(path, tmp_path / "out", capsys)
    assert code == 0
    assert "## 5. 7B's shape\n" in text
