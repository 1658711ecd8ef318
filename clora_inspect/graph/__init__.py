"""The placement graph of a plan, its folded form, and the formats it is written in."""
