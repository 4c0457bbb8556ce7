"""The layers of the paper: router, dispatch, experts, combine (Section 2 and the appendices).

Nothing here reads a file, depends on a task, or runs a session.
"""
