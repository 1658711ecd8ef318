"""The terminal user interface: walk through the model of a job, and see what surgery does to it.

    job/       what is opened and planned: jobs, saved files, the child process that plans
    tree/      the model as a tree, and the rows of it that are shown
    panes/     what a pane says, as styled lines
    widgets/   what screens are made of; the tables of actions and tabs
    screens/   the screens
    app.py     the application that holds them

`job`, `tree` and `panes` know neither torch nor Textual, so they are tested without a terminal.
"""
