"""The folders that the library writes and reads, without the model that they are for."""
