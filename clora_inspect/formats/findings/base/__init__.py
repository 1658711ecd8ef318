"""What several formats of findings share. Every file beside this folder is a format."""
