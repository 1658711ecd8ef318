"""One file per group of model families: the numbers of a Hugging Face config as megatron-core's."""
