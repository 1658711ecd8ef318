"""Read the LoRA of a job from a file that another library wrote: an `adapter_config.json` of
Hugging Face PEFT, or the `peft` section of a run of Megatron-Bridge.

Read `reader` first. What `CanonicalLoRA` cannot express is refused by its name, and never left out.
Files are data: nothing that they name is imported, and no pattern in them can take long.
"""
