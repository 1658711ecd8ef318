"""What the tool talks about: a job, its layout, its plan and the findings in it. Pure data."""
