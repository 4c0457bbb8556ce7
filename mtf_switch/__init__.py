"""Switch Transformers (Fedus, Zoph, Shazeer; arXiv 2101.03961) in Mesh TensorFlow.

Importing this package is cheap: it loads neither TensorFlow nor Mesh TensorFlow. The package
repairs the installed Mesh TensorFlow and T5 when they are imported (see `mtf_switch.upstream`),
so import it before them.
"""

from mtf_switch.upstream import import_hooks

import_hooks.repair_on_import()
