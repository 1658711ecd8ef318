"""The story of a check: configured jobs -> plans (cached) -> findings and drift -> allow-list ->
`CheckReport`.
"""
