"""Files of json lines that users give: questions, answers, matches."""

import json
from pathlib import Path
from typing import Any

from qlora_repro.errors import DataError


def json_lines(path: Path, *, subject: str, instead: str) -> list[tuple[str, Any]]:
    """Return (where it stands, its value) of each line that is not empty.

    subject, instead: what cannot be read, and what to give for it, as an error says them. Raises
    DataError for a file that cannot be read, and for a line that is not JSON, with the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{subject} cannot be read ({type(error).__name__}); {instead}") from error
    rows = [(f"{path}, line {number}", line) for number, line in enumerate(lines, 1)]
    return [(where, _value(line, where)) for where, line in rows if line.strip()]


def _value(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is not JSON ({error.msg}); one object a line is read") from error
