"""The data that the tool works with: a job, its layout, its plan, its findings. Pure."""
