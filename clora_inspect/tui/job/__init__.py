"""What the interface opens and plans: jobs, files, requests."""
