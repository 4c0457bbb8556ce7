"""The variables of a run in the memory of the host: their initial values and their checkpoints.

They are the master variables that Mesh TensorFlow has made in the graph of the step, so names,
initial values and checkpoints are those of the Estimator.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf

from mtf_switch.pjrt.device_mesh import DeviceMesh, OnDevices
from mtf_switch.programs.program import Program

# Least bytes of the variables that are copied together.
_PART_BYTES = 2**30


class Masters:
    """Master variables in a session of their own, and their slices on devices.

    Attributes:
      session: The session, on the processor.
    """

    def __init__(self, lowering: mtf.Lowering, program: Program, mesh: DeviceMesh):
        """Makes them for the default graph, in which the step was lowered.

        Args:
          lowering: The lowered step.
          program: Its program.
          mesh: The devices.
        """
        self._mesh = mesh
        self._step = tf.train.get_global_step()
        self._values = {value.name: value for value in program.inputs}
        self._changed = {value.name for value in program.outputs}
        self._reads: dict[str, tf.Tensor] = {}
        self._assigns: dict[str, tuple[tf.Tensor, tf.Operation]] = {}
        for variable in lowering.variables:
            name, shape = variable.name, variable.shape.to_integer_list
            fed = tf.placeholder(variable.master_dtype, shape)
            self._reads[name] = tf.convert_to_tensor(variable.get_master())
            self._assigns[name] = fed, variable.assign_to_master(fed)
        config = tf.ConfigProto(device_count={"GPU": 0})
        # TensorFlow has no kernels for the collectives in the graph, and runs none of them.
        config.graph_options.place_pruned_graph = True
        # The graph optimizer would look at the whole graph.
        config.graph_options.rewrite_options.disable_meta_optimizer = True
        self.session = tf.Session(config=config)
        # Those that no checkpoint of the run has, such as a teacher's.
        self.session.run(tf.local_variables_initializer())

    def initialize(self) -> None:
        """Gives the variables their initial values."""
        self.session.run(tf.global_variables_initializer())

    @property
    def step(self) -> int:
        """The global step."""
        return int(self.session.run(self._step))

    def put_on_devices(self) -> dict[str, OnDevices]:
        """Returns the slices of each variable of the program on the devices of this process."""
        slices = {}
        for names in self._divide(name for name in self._reads if name in self._values):
            whole = self.session.run({name: self._reads[name] for name in names})
            for name in names:
                slices[name] = self._mesh.split(self._values[name], whole.pop(name))
        return slices

    def read_from_devices(self, slices: Mapping[str, OnDevices], step: int) -> None:
        """Gives the variables that the program changes their values on the devices.

        All processes must call this, because they communicate.

        Args:
          slices: The slices of each variable of the program, in the same order in all
            processes.
          step: The global step.
        """
        for names in self._divide(name for name in slices if name in self._changed):
            values, assigns = {}, []
            for name in names:
                fed, assign = self._assigns[name]
                whole = self._mesh.join(self._values[name], slices[name])
                values[fed] = whole.astype(fed.dtype.as_numpy_dtype, copy=False)
                assigns.append(assign)
            self.session.run(assigns, values)
        self._step.load(step, self.session)

    def _divide(self, names: Iterable[str]) -> Iterator[list[str]]:
        """Divides variables into parts that are copied together.

        A call of the session looks at the whole graph if it runs something for the first time,
        so there are few calls; and a part is small, because it needs memory of its own.
        """
        part, size = [], 0
        for name in names:
            part.append(name)
            read = self._reads[name]
            size += read.shape.num_elements() * read.dtype.size
            if size >= _PART_BYTES:
                yield part
                part, size = [], 0
        if part:
            yield part
