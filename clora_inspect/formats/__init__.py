"""What the commands print: a folder for each kind of content, and in it a module for each format.

All of it is made of values: nothing here imports torch, builds a model or knows where the text
goes. What the destination can show comes in as a `Look`.
"""
