"""What a job's adapters looked like when a person last said that they were right: the files, and
what changed since.
"""
