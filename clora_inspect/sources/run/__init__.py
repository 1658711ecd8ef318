"""Read a run of Megatron-Bridge, the `run_config.yaml` of a checkpoint folder, as a model.

Read `model_of_run` first. The file is data. A `_target_` is compared with tables of names, and
nothing that it names is imported or called.
"""
