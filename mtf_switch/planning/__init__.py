"""Plans a training step on a TPU pod: its memory, communication and time.

It counts everything on the graph of one core. Nothing here runs that graph.
"""
