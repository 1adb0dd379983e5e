"""What is printed is what was given."""

import subprocess
import sys

import pytest
from rich.table import Table

from qlora_repro.console import new_console, print_error, say

REASON = "the template ends with [/INST] and [bold]not[/bold]"


def test_brackets_in_a_text_are_text_in_lines_errors_and_tables(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = Table("why", title=REASON)
    table.add_row(REASON)
    say(REASON)
    say(table)
    print_error(REASON)
    new_console(width=160).print(table)  # as the view of `status watch` is drawn
    printed = capsys.readouterr()
    assert printed.out.count(REASON) == 5
    assert printed.err == f"error: {REASON}\n"


def test_a_closed_output_is_taken_by_no_file_of_ours() -> None:
    code = (
        "import os; os.close(1)\n"
        "import sys; sys.stdout = None  # as Python starts where file 1 is closed\n"
        "from qlora_repro.console import open_closed_streams, say\n"
        "open_closed_streams(); say('nobody reads this')\n"
        "assert sys.stdout.fileno() == 1 and open(os.devnull).fileno() > 2"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
