"""The output of the commands: a folder for each kind of content, with a module for each format.

Formats are pure functions of plans, reports and rules: nothing here imports torch, builds a model
or prints. A `Look` says whether the destination shows colours and Unicode, and how wide it is.
"""
