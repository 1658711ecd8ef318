"""Print messages for people on stderr. What a script should read goes to stdout."""

from __future__ import annotations

import contextlib
import sys

from clora_inspect.formats.glyphs import harmless


def narrate(text: str) -> None:
    """Print `text` on stderr. Characters that it cannot encode are escaped; errors are ignored."""
    stream = sys.stderr
    if stream is None:  # a process without a console, or `2>&-`
        return
    encoding = stream.encoding or "utf-8"
    with contextlib.suppress(OSError, ValueError):
        stream.write(harmless(text).encode(encoding, "backslashreplace").decode(encoding) + "\n")
        stream.flush()
