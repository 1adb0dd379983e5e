"""What is printed is what was given."""

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
