"""The process and the machine it runs on: output, the garbage collector, files written whole."""
