"""Find the layouts in which a job fits on a number of GPUs.

    search.py       the story: candidates -> bounds -> measurements -> what fits, cheapest first
    candidates.py   all layouts and settings, and why some cannot be built
    own.py          the candidate that the job itself is
    refusal.py      jobs that cannot be laid out anew
    measure.py      the measurements, each made once, when it is needed
    unit.py         one of them: what a layer of each kind costs on one rank, on meta
    bounds.py       what a layer costs at least on ranks where it was not measured
    stage.py        which layers a pipeline stage has
    estimate.py     memory and time of a candidate, put together from its layers

A candidate is never built as a whole: its stages are sums of layers.
"""
