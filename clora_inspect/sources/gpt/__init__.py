"""The parts of GPT models that megatron-core does not have: norms in other places, and scales."""
