"""Controls what the installed packages write to the screen."""

from __future__ import annotations

import os


def show_errors_only() -> None:
    """Hides logs and warnings of the installed packages, but not their errors.

    Upstream logs every line twice, and reports failures where nothing failed. Call this before
    TensorFlow is imported, because its C++ part reads the environment when it is loaded. This
    function does not import TensorFlow, so mistakes of users can be reported without it.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import logging
    import warnings

    import absl.logging

    absl.logging.set_verbosity(absl.logging.ERROR)
    # The result of tf.get_logger(), once TensorFlow is imported.
    logger = logging.getLogger("tensorflow")
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
