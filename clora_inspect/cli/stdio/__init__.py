"""What is printed beside the results: progress, narration and failures."""
