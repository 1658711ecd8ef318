"""The terminal user interface: walk through a job's model and see the surgery.

    keys             every action of the user, once: bindings, footer, help, palette and docs are
    made of it model_nodes      a plan -> the whole module tree, as flat arrays
    tree_model       which rows of it are on the screen: folded, unfolded, filtered
    drawing, ...     what a pane says of a node, as lines of text
    app, *_screen    Textual: the only files that know it

Everything above the last line is pure: neither torch nor Textual, so that it is tested without a
terminal.
"""
