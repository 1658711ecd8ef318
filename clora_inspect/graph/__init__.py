"""How the placement graph is written for other programs: one file per format, all of them pure
functions of a networkx graph.
"""
