"""CL2, geometry: ranks, scales and shapes that do not fit their linear, or fit it badly."""
