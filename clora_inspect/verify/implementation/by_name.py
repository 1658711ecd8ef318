"""Choose an implementation by the name that a user writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.verify.implementation.clora import Clora

if TYPE_CHECKING:
    from clora_inspect.job.implementation import ImplementationName
    from clora_inspect.verify.implementation.protocol import Implementation


def implementation_of(name: ImplementationName) -> Implementation:
    """Return the implementation called `name`.

    Raises:
        DeviceError: Megatron-Bridge is not installed, or cannot be imported.
    """
    if name == "clora":
        return Clora()
    # Imported only on request, because it needs a package that few users have.
    from clora_inspect.bridge.canonical_lora import BridgeLoRA
    from clora_inspect.verify.implementation.bridge import Bridge

    return Bridge(BridgeLoRA.installed())
