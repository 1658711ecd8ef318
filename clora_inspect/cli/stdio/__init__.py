"""Standard streams: print results, and beside them progress, narration and failures."""
