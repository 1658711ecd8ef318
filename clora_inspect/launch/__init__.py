"""The gate: what the ranks of a run really built, compared with what was accepted before it starts.

Every rank reads its live model (`live`) and the file (`expected`), and compares the two
(`comparison`). The ranks then agree on a verdict with a fixed number of collectives of fixed size
(`agreement`), rank 0 prints one report (`report`), and a run that differs ends before its first
step (`gate`). `recording` writes what a run is.
"""
