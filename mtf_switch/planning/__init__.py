"""What a model needs and communicates on a TPU pod, counted on the graph of one core.

Nothing here runs that graph.
"""
