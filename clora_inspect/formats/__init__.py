"""How a plan is shown: one file per output format, all of them pure functions of a `JobPlan`."""
