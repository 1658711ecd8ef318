"""A plan as text and JSON: tables, summaries and the page of one module."""
