"""CL6, checkpoint and export: adapters that cannot leave Megatron, or arrive changed."""
