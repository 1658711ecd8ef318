"""Code shared by several formats of findings. Every file beside this folder is a format."""
