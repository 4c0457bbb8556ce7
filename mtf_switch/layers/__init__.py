"""The layers of the paper: router, dispatch, experts, combine (Section 2 and the appendices).

Nothing here reads files, knows a task, or runs a session.
"""
