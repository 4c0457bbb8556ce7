"""The name of `tasks.register_all` in version 0.1.0, for commands that were written then."""

import tasks.register_all  # noqa: F401
