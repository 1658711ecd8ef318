"""What a job costs on each rank: one micro-batch is run on meta, and observers count.

`ownership.py` tells base from adapter and forward from backward. `operations.py` shows each
operation to the counters: `traffic.py` for bytes between ranks, `flops.py` for arithmetic.
`between_micro_batches.py` computes what pipeline stages and data-parallel ranks exchange.
"""
