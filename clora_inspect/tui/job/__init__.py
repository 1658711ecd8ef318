"""The jobs and files that the interface opens, and the child process that plans and proves them. No
Textual here.
"""
