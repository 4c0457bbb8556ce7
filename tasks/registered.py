"""The old name of `tasks.register_all`, for commands that were written for version 0.1.0."""

import tasks.register_all  # noqa: F401
