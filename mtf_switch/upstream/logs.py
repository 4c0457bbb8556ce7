"""Controls what the installed packages write to the screen."""

from __future__ import annotations

import os


def show_errors_only() -> None:
    """Hides logs and warnings of the installed packages, but not their errors.

    Upstream logs every line twice, and reports failures where nothing failed. Call this before
    TensorFlow is imported, because its C++ part reads the environment when it is loaded. This
    function does not import it, so that a user's mistake can be answered without it.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import logging
    import warnings

    import absl.logging

    absl.logging.set_verbosity(absl.logging.ERROR)
    # What tf.get_logger() returns, once TensorFlow is imported.
    of_tensorflow = logging.getLogger("tensorflow")
    of_tensorflow.setLevel(logging.ERROR)
    of_tensorflow.propagate = False
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
