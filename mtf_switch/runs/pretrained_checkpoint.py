"""Finds a checkpoint to fine-tune, the configuration of its model, and its vocabulary."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from typing import Any

import seqio
import t5.data
import tensorflow.compat.v1 as tf
from mesh_tensorflow.transformer import utils
from t5.models import mesh_transformer

import tasks
from mtf_switch import network, whole_file
from mtf_switch.config import gin_config, gin_statements, saved_config
from mtf_switch.config.gin_config import SavedText
from mtf_switch.errors import UserError, name_program
from mtf_switch.model_dirs import kept_vocabulary, saved_checkpoints, start_checkpoint
from mtf_switch.runs import configured_run, run_vocabulary
from mtf_switch.runs.run import Run
from mtf_switch.runs.runtime import Runtime
from tasks import pretraining

# Configurables that describe a run rather than its model. Their bindings are not inherited.
_RUN_CONFIGURABLES = re.compile(
    r"""(MIXTURE_NAME|run|seed|devices|eval_every_steps|keep_best|mesh|constant|linear_\w+|learning_rate\w*|\w*_rsqrt\w*
    |product_learning_rate|\w*Optimizer|LeanAdafactor|mesh_\w+_dataset_fn|\w*pack\w*
    |get_variable_dtype|get_vocab_embedding_cls|serialize_num_microbatches|decode
    |should_load_variable|init_checkpoint_variable_mapping|task_cache|tfds_data
    |distillation|task_vocabulary|run_vocabulary|own_data|tpu_\w+|utils)\Z""",
    re.VERBOSE,
)


@dataclasses.dataclass(frozen=True)
class PretrainedCheckpoint:
    """A checkpoint from which a run starts, and the settings in its folder.

    Attributes:
      path: Path of the checkpoint, without the ending of its files.
      config: Gin text of its model; empty if the folder does not contain any.
      vocabulary: The vocabulary of its task; None if the folder does not name the task, or
        keeps a vocabulary itself.
      whole_config: Gin text of its model and its run; empty if the folder does not contain any.
    """

    path: str
    config: SavedText
    vocabulary: seqio.Vocabulary | None
    whole_config: SavedText

    @classmethod
    def from_path(
        cls, path: str, gin_files: Sequence[str] = (), flag: str = "--init_checkpoint"
    ) -> PretrainedCheckpoint:
        """Looks for a checkpoint, and for the configuration beside it.

        Args:
          path: A checkpoint such as "model.ckpt-1000", or a folder, for its latest checkpoint.
            Both may be gs:// addresses.
          gin_files: Gin files of the user. The configuration may use the packages that they
            import.
          flag: The flag that names the path, for messages.

        Raises:
          UserError: If there is no checkpoint, or its configuration cannot be read as data.
        """
        network.check_address(path, "Copy the checkpoint to this machine.")
        checkpoint = _find_latest(path, flag) if tf.io.gfile.isdir(path) else path
        if not tf.train.checkpoint_exists(checkpoint):
            raise start_checkpoint.missing(checkpoint, flag)
        folder = os.path.dirname(checkpoint)
        config_file = os.path.join(folder, "config.gin")
        t5_config_file = os.path.join(folder, "operative_config.gin")
        if whole_file.exists(config_file):
            saved = _read_saved(config_file, gin_files)
            if kept_vocabulary.find(folder) is not None:
                # The run that starts here uses the kept vocabulary: see run_vocabulary.choose.
                return cls(checkpoint, _select_model_bindings(saved), None, saved)
            return cls(checkpoint, *_read_config(saved), saved)
        if whole_file.exists(t5_config_file):
            saved = _read_saved(t5_config_file, gin_files)
            return cls(checkpoint, _select_model_bindings(saved), None, saved)
        return cls(checkpoint, SavedText(), None, SavedText())

    def configure_run(
        self,
        gin_files: Sequence[str],
        gin_params: Sequence[str],
        model_dir: str,
        cluster: Any | None = None,
        runtime: Runtime | None = None,
    ) -> Run:
        """Parses the configuration of a run that starts from this checkpoint.

        Args:
          gin_files: Gin files on top of the configuration of this checkpoint's model.
          gin_params: Bindings on top of the files.
          model_dir: The folder of the new run.
          cluster: A TPUClusterResolver, or None for this machine.
          runtime: What runs the steps; None for the Estimator.

        Returns:
          The run. Its configuration is now the parsed one.

        Raises:
          UserError: If the configuration cannot be parsed, or the vocabulary of its task
            differs from that of the checkpoint.
        """
        start = f"utils.run.init_checkpoint = {self.path!r}"
        gin_config.parse(gin_files, [start, *gin_params], self.config)
        run = configured_run.make_run(model_dir, cluster, runtime=runtime)
        self.check_vocabulary(run)
        return run

    def check_vocabulary(self, run: Run) -> None:
        """Checks that a run has the vocabulary of this checkpoint, by its content.

        Raises:
          UserError: If it has not.
        """
        for feature in ("inputs", "targets"):
            vocabulary = run.feature_vocabulary(feature)
            if self.vocabulary is not None and not _are_same(vocabulary, self.vocabulary):
                raise UserError(
                    f"Task {run.settings.task!r} uses {_describe(vocabulary)}, but the "
                    f"checkpoint {self.path} was trained with {_describe(self.vocabulary)}. "
                    "Remove --vocabulary to use the checkpoint's, or start from another "
                    "checkpoint."
                )


def _find_latest(folder: str, flag: str) -> str:
    found = saved_checkpoints.find_latest_if_any(folder)
    if found is None:
        raise UserError(
            f"The folder {folder} does not contain a checkpoint. {flag} must be a model_dir of "
            f"{name_program()} train, or the path of a checkpoint in one."
        )
    return found


def _read_saved(path: str, gin_files: Sequence[str]) -> SavedText:
    """Reads the configuration beside a checkpoint, which may name what this project lacks."""
    return dataclasses.replace(saved_config.read(path, gin_files), skip_unknown=True)


def _select_model_bindings(config: SavedText) -> SavedText:
    """Selects the bindings of a run's configuration that describe its model and its text."""
    kept = [
        str(binding)
        for binding in gin_statements.read_bindings(config.text)
        if not _RUN_CONFIGURABLES.match(binding.base_name) or binding.parameter == "model_type"
    ]
    lines = [*gin_statements.read_imports(config.text), *kept]
    return dataclasses.replace(config, text="\n".join(lines) + "\n")


def _read_config(config: SavedText) -> tuple[SavedText, seqio.Vocabulary | None]:
    """Returns (gin text of the model, vocabulary) from the config.gin of a model_dir."""
    model = _select_model_bindings(config)
    bindings = gin_statements.read_bindings(config.text)
    source = [str(b) for b in bindings if b.base_name == "task_vocabulary"]
    task = {b.key: b.value for b in bindings}.get("MIXTURE_NAME")
    gin_config.parse([], [], _add_text(model, "\n".join(source)))
    tasks.register()
    if task not in seqio.TaskRegistry.names() | seqio.MixtureRegistry.names():
        return model, None
    vocabulary = utils.inputs_vocabulary(mesh_transformer.get_vocabulary(task))
    return _add_text(model, _bind_vocabulary(vocabulary)), vocabulary


def _add_text(saved: SavedText, text: str) -> SavedText:
    return dataclasses.replace(saved, text=f"{saved.text}{text}\n")


def _bind_vocabulary(vocabulary: seqio.Vocabulary) -> str:
    """Returns gin text that gives every task this vocabulary; "" for T5's own."""
    if isinstance(vocabulary, pretraining.CorpusVocabulary):
        return f"task_vocabulary.source = {vocabulary.corpus.name!r}\n"
    file = getattr(vocabulary, "sentencepiece_model_file", None)
    if file is None or file == t5.data.DEFAULT_SPM_PATH:
        return ""
    return (
        f"task_vocabulary.source = {file!r}\ntask_vocabulary.sentinels = "
        f"{vocabulary.extra_ids}\n"
    )


def _are_same(a: seqio.Vocabulary, b: seqio.Vocabulary) -> bool:
    """Whether two vocabularies have the same content."""
    if a is b or a == b:
        return True
    models = [run_vocabulary.identify(vocabulary) for vocabulary in (a, b)]
    return models[0] is not None and models[0] == models[1]


def _describe(vocabulary: seqio.Vocabulary) -> str:
    model = run_vocabulary.identify(vocabulary)
    return f"the vocabulary {model.origin} ({model})" if model else str(vocabulary)
