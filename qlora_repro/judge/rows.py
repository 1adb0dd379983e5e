"""A frame of verdicts, as a csv or the released data hold them, as rows."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pandas as pd

from qlora_repro.records import Judgment


def from_frame(frame: pd.DataFrame) -> Iterator[Judgment]:
    """Yield a frame of verdicts, as `store.verdicts` reads it, as rows; what is missing is None."""
    absent = {field.name: "" for field in fields(Judgment)}
    for row in frame.to_dict("records"):
        values: dict[str, Any] = {str(k): None if pd.isna(v) else v for k, v in row.items()}
        for name in ("chars_first", "chars_second"):
            values[name] = None if values[name] is None else int(values[name])
        yield Judgment(**(absent | values))
