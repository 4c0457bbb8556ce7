"""Plans a training step on a TPU pod: its memory, communication and time.

Everything is counted on the graph of one core. Nothing here runs that graph.
"""
