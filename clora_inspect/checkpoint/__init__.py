"""A job beside a distributed checkpoint of megatron-core: which tensors the job asks for, which the
checkpoint has, and how the two differ.

`folder` finds the checkpoint that a path means, `asked` builds the model to see what it asks for,
and `comparison` compares. No tensor is opened, and no pickle except the index, which is read with
an unpickler that knows nothing else.
"""
