"""The model as a tree of nodes (`build`, `nodes`), and the rows of it that are shown (`rows`)."""
