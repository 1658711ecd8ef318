"""CL2, geometry: ranks, scales and shapes that fit their linear badly, or not at all."""
