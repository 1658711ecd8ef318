"""init_process_group() replaces `sys.excepthook`; a virtual cluster restores it."""

from __future__ import annotations

import sys

from clora_inspect.job.layout import Layout
from clora_inspect.virtual import virtual_cluster, virtual_megatron


def test_uncaught_exceptions_look_as_before_after_a_virtual_cluster() -> None:
    before = sys.excepthook
    with virtual_megatron("meta"), virtual_cluster(Layout(tp=2), 1):
        pass
    assert sys.excepthook is before
