"""What this process does to the machine it runs on: quiet output, the garbage collector, files that
are written whole.
"""
