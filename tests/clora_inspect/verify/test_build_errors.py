"""A model that cannot be built on a rank is no fault of surgery."""

from __future__ import annotations

import pytest
from verify_models import proved, task_of

from clora.errors import LayoutError
from clora_inspect.job.layout import Layout
from clora_inspect.verify.model import model_under_test
from clora_inspect.verify.ranks.worlds import one_rank


def test_a_layout_that_the_model_refuses_is_not_said_of_surgery(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_options: object) -> None:
        raise LayoutError("build ignores pre_process")

    monkeypatch.setattr(model_under_test, "build", refuse)
    with one_rank(Layout(), "cpu"), pytest.raises(LayoutError, match=r"^build ignores pre_process$"):
        proved("base-twice", task_of("short"))
