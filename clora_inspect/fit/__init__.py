"""Find the layouts in which a job fits on a number of GPUs.

    candidates.py   all layouts and settings, and why some cannot be built
    unit.py         what one layer of each kind costs on one rank: measured on meta, once for all
                    candidates that split a layer alike
    estimate.py     memory and time of a candidate, put together from its layers
    search.py       the story: candidates -> units -> estimates -> the ones that fit, cheapest first

A candidate is never built as a whole: its stages are sums of layers.
"""
