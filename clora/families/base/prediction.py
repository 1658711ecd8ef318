"""Multi-token-prediction layers of families whose published class builds them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from clora.families.base.conversion import Conversion
    from clora.families.base.hf_config import HFConfig


def with_prediction_layers(hf: HFConfig, conversion: Conversion) -> Conversion:
    """Return the conversion with as many multi-token-prediction layers as
    `num_nextn_predict_layers` says.
    """
    layers = hf.count("num_nextn_predict_layers")
    if not layers:
        return conversion
    note = (
        f"Multi-token-prediction layers (num_nextn_predict_layers = {layers}) are built, as by the published class. "
        "Write --set model.mtp_num_layers=0 to leave them out."
    )
    return msgspec.structs.replace(
        conversion, config=conversion.config | {"mtp_num_layers": layers}, notes=(*conversion.notes, note)
    )
