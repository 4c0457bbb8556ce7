"""The tables and figures of the paper, trained at small scale, with a verdict on each claim."""
