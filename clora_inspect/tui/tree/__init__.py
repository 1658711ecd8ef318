"""The model as a tree, and the rows of it that are shown."""
