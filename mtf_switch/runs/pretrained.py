"""What is known of a checkpoint to fine-tune: the model's configuration and vocabulary."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from typing import Any

import seqio
import t5.data
import tensorflow.compat.v1 as tf
from t5.models import mesh_transformer

import tasks
from mtf_switch.config import gin_config, gin_statements, run_settings
from mtf_switch.errors import UserError
from mtf_switch.runs import data
from tasks import pretraining

# Configurables of a run rather than of a model; of these, bindings are not taken over.
_OF_THE_RUN = re.compile(
    r"""(MIXTURE_NAME|run|seed|devices|mesh|constant|linear_\w+|learning_rate\w*|\w*_rsqrt\w*
    |product_learning_rate|\w*Optimizer|LeanAdafactor|mesh_\w+_dataset_fn|\w*pack\w*
    |get_variable_dtype|get_vocab_embedding_cls|serialize_num_microbatches|decode
    |should_load_variable|init_checkpoint_variable_mapping|task_cache|tfds_data
    |task_vocabulary|tpu_\w+|utils)\Z""",
    re.VERBOSE,
)


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A checkpoint and what its folder says of it.

    Attributes:
      checkpoint: its path, without the ending of its files.
      config: gin text of its model; "" if the folder has none.
      vocabulary: what it was trained with; None if nothing says so.
    """

    checkpoint: str
    config: str
    vocabulary: seqio.Vocabulary | None

    def configure(self, gin_files: Sequence[str], gin_params: Sequence[str]) -> None:
        """Parses a run that starts here: the model of this checkpoint, and files on top.

        Raises:
          UserError: for gin files that cannot be read, or a task of another vocabulary.
        """
        start = f"utils.run.init_checkpoint = {self.checkpoint!r}"
        gin_config.parse(gin_files, [start, *gin_params], base=self.config)
        task = run_settings.from_gin().task
        self.check_vocabulary(task, data.prepare(task))

    def check_vocabulary(self, task: str, vocabulary: Any) -> None:
        """Refuses a task that is read with another vocabulary.

        Args:
          task: its name.
          vocabulary: of the task, or an (inputs, targets) pair.

        Raises:
          UserError: with both vocabularies.
        """
        parts = vocabulary if isinstance(vocabulary, tuple) else (vocabulary,)
        for part in parts:
            if self.vocabulary is not None and not _same(part, self.vocabulary):
                raise UserError(
                    f"Task {task!r} is read with {_described(part)}, and the checkpoint "
                    f"{self.checkpoint} was trained with {_described(self.vocabulary)}. Leave "
                    "--vocabulary away to take the checkpoint's, or start from another one."
                )


def find(init_checkpoint: str) -> Pretrained:
    """Looks at a checkpoint and the configuration beside it.

    Args:
      init_checkpoint: path of a checkpoint, as in "model.ckpt-1000", or a folder, of which
        the latest is taken; gs:// addresses, too.

    Raises:
      UserError: if there is none.
    """
    checkpoint = (
        _latest(init_checkpoint) if tf.io.gfile.isdir(init_checkpoint) else init_checkpoint
    )
    if not tf.train.checkpoint_exists(checkpoint):
        raise UserError(
            f"There is no checkpoint {checkpoint!r}. --init_checkpoint is a path such as "
            "runs/base/model.ckpt-1000 (without .index), or the folder that holds it."
        )
    folder = os.path.dirname(checkpoint)
    own = os.path.join(folder, "config.gin")
    t5s = os.path.join(folder, "operative_config.gin")
    if tf.io.gfile.exists(own):
        return _own(checkpoint, _read(own))
    if tf.io.gfile.exists(t5s):
        return Pretrained(checkpoint, _of_model(_read(t5s)), None)
    return Pretrained(checkpoint, "", None)


def _latest(folder: str) -> str:
    found = tf.train.latest_checkpoint(folder)
    if found is None:
        raise UserError(
            f"The folder {folder} holds no checkpoint. --init_checkpoint is a model_dir of "
            "run_switch.py train, or the path of a checkpoint in one."
        )
    return found


def _read(path: str) -> str:
    with tf.io.gfile.GFile(path) as file:
        return file.read()


def _of_model(config: str) -> str:
    """The bindings of a run's configuration that make its model and its text."""
    kept = [
        str(binding)
        for binding in gin_statements.read_bindings(config)
        if not _OF_THE_RUN.match(binding.base_name) or binding.parameter == "model_type"
    ]
    return "\n".join([*gin_statements.read_imports(config), *kept]) + "\n"


def _own(checkpoint: str, config: str) -> Pretrained:
    """What the config.gin of a run of the project says."""
    model = _of_model(config)
    bindings = gin_statements.read_bindings(config)
    of_vocabulary = [str(b) for b in bindings if b.base_name == "task_vocabulary"]
    task = {b.key: b.value for b in bindings}.get("MIXTURE_NAME")
    gin_config.parse([], [], base="\n".join([model, *of_vocabulary]))
    tasks.register()
    if task not in seqio.TaskRegistry.names() | seqio.MixtureRegistry.names():
        return Pretrained(checkpoint, model, None)
    vocabulary = mesh_transformer.get_vocabulary(task)
    part = vocabulary[0] if isinstance(vocabulary, tuple) else vocabulary
    return Pretrained(checkpoint, model + _bindings(part), part)


def _bindings(vocabulary: seqio.Vocabulary) -> str:
    """Gin text that gives every task this vocabulary; "" where it is T5's own."""
    if isinstance(vocabulary, pretraining.CorpusVocabulary):
        return f"task_vocabulary.source = {vocabulary.corpus.name!r}\n"
    file = getattr(vocabulary, "sentencepiece_model_file", None)
    if file is None or file == t5.data.DEFAULT_SPM_PATH:
        return ""
    return (
        f"task_vocabulary.source = {file!r}\ntask_vocabulary.sentinels = "
        f"{vocabulary.extra_ids}\n"
    )


def _same(a: seqio.Vocabulary, b: seqio.Vocabulary) -> bool:
    if a is b:
        return True
    paths = [getattr(v, "_sentencepiece_model_file", None) for v in (a, b)]
    if type(a) is type(b) and paths[0] and paths[0] == paths[1]:
        return a.extra_ids == b.extra_ids
    return a == b


def _described(vocabulary: seqio.Vocabulary) -> str:
    name = getattr(vocabulary, "corpus", None)
    name = name or getattr(vocabulary, "sentencepiece_model_file", str(vocabulary))
    return f"the vocabulary of {name} ({vocabulary.vocab_size:,} ids)"
