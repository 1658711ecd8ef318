"""The fingerprint of adapters, wherever they are: in a model, a checkpoint, a Hugging Face folder.

`names` calls each linear in one way, whoever named it. `live` fingerprints a model on all its
ranks, `checkpoint` and `peft_folder` what lies in files. How a pair is hashed is in
`clora.folders.fingerprint`.
"""
