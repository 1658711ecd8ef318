"""stderr: what is said beside the data. Never anything that a script should read."""

from __future__ import annotations

import contextlib
import sys

from clora_inspect.formats.glyphs import harmless


def narrate(text: str) -> None:
    """Print `text` on stderr, whatever characters it can show; a stderr that is closed is nobody's
    loss.
    """
    stream = sys.stderr
    if stream is None:
        return
    encoding = stream.encoding or "utf-8"
    with contextlib.suppress(OSError, ValueError):
        stream.write(harmless(text).encode(encoding, "backslashreplace").decode(encoding) + "\n")
        stream.flush()
