"""CL3, parallel layout: what is right on one rank, and wrong or missing on many."""
