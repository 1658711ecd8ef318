"""The shards of adapters: `checkpoint` describes them for distributed checkpoints, `saved_names`
finds them under the names of other models and releases, `full_tensor` joins and cuts them.
"""
