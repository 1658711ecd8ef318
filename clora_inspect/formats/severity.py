"""`SEVERITY_STYLES`: the colour of each severity in text for people."""

from __future__ import annotations

from clora_inspect.formats.look import Style
from clora_inspect.job.finding import Severity

SEVERITY_STYLES = {Severity.ERROR: Style.RED, Severity.WARNING: Style.YELLOW, Severity.INFO: Style.PLAIN}
