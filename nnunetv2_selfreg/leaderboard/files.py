"""Writing a file as a whole or not at all."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Writes or replaces a file, and makes its folder if there is none.

    Raises:
        OSError: The file cannot be written; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8", newline="")
        os.replace(partial, path)
    finally:
        with suppress(OSError):
            partial.unlink()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes or replaces a JSON file.

    Raises:
        OSError: The file cannot be written; nothing is left behind.
    """
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
