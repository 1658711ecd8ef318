"""Results of `verify`, as text and as JSON."""
