"""The environment variables by which `clora-inspect gate` and the run speak. Pure."""

FILE_VARIABLE = "CLORA_INSPECT_GATE"
"""The file that `gate` compares with when it is given none."""

RECORD_VARIABLE = "CLORA_INSPECT_GATE_RECORD"
"""The folder in which `gate` records the run when it is given none."""

ANSWER_VARIABLE = "CLORA_INSPECT_GATE_ANSWER"
"""The file in which rank 0 writes the verdict for `clora-inspect gate`."""

RECORD_NAME = "clora-run.json"
"""Name of the record in the folder of a run's checkpoint."""
