"""The checkpoint directory: what ``train`` and ``fold`` write and every other command reads.

::

    ckpt/
      config.json            config.CheckpointConfig
      metrics.jsonl          one line per epoch
      layers.jsonl           one line per epoch: each layer's outputs and running statistics
      steps/<step>/          one Orbax save: variables, optimizer, progress
      steps/<step>.sha256    every file of that save; written last, so a save without it is incomplete
      steps/<step>.precise/  population statistics for that save (train --precise-bn), with a manifest too
      files.sha256           a folded checkpoint only: the files beside its save
      forward.stablehlo      a folded checkpoint only: its forward pass, (variables, images) -> logits
      fold_report.json       a folded checkpoint only
      report.html            the page of ``bncli report``
      logs/                  the logs of ``train --log``

``directory`` knows the files, ``saves`` the steps, and ``orbax_io`` the content of a step. ``manifest`` and
``integrity`` check files against their SHA-256. ``background`` writes saves while the training continues, and
``locking`` admits one training per directory. ``load`` opens a ``Checkpoint``, and ``program`` examines the forward
pass of a folded one before it runs. ``foreign_arrays`` reads the files of other programs (``orbax_layout`` their Orbax
directories), ``foreign_model`` makes a ``Checkpoint`` of them, and ``opening`` opens one of any origin. Only
``orbax_io`` imports orbax, and only ``orbax_layout`` imports tensorstore.
"""

from bncli.checkpoint.background import BackgroundSaver
from bncli.checkpoint.directory import (
    CONFIG,
    FOLD_REPORT,
    FORWARD,
    FREE_SPACE_AND_REPEAT,
    LAYERS,
    LOGS,
    METRICS,
    REPORT,
    STEPS,
    append_layers,
    check_output,
    create_output,
    keep_layers,
    new_output,
    read_config,
    read_layers,
    write_config,
    write_metrics,
)
from bncli.checkpoint.folded import write_folded
from bncli.checkpoint.foreign_arrays import ForeignCheckpoint, find_variables, is_foreign, read_foreign
from bncli.checkpoint.foreign_model import open_foreign
from bncli.checkpoint.hashing import sha256_tree
from bncli.checkpoint.integrity import FileReport, VerifyReport, verify_checkpoint
from bncli.checkpoint.load import Checkpoint, check_model_code, load
from bncli.checkpoint.locking import locked, locked_for_all
from bncli.checkpoint.opening import is_unsaid, open_checkpoint, refuse_unsaid
from bncli.checkpoint.program import trust_program
from bncli.checkpoint.saves import (
    complete_steps,
    drop_after,
    find_step,
    has_precise_statistics,
    load_variables,
    prune,
    read_progress,
    restore_training,
    save,
    save_precise_statistics,
    sweep,
    verify,
)
from bncli.config.unsaid import Unsaid

__all__ = [
    "CONFIG",
    "FOLD_REPORT",
    "FORWARD",
    "FREE_SPACE_AND_REPEAT",
    "LAYERS",
    "LOGS",
    "METRICS",
    "REPORT",
    "STEPS",
    "BackgroundSaver",
    "Checkpoint",
    "FileReport",
    "ForeignCheckpoint",
    "Unsaid",
    "VerifyReport",
    "append_layers",
    "check_model_code",
    "check_output",
    "complete_steps",
    "create_output",
    "drop_after",
    "find_step",
    "find_variables",
    "has_precise_statistics",
    "is_foreign",
    "is_unsaid",
    "keep_layers",
    "load",
    "load_variables",
    "locked",
    "locked_for_all",
    "new_output",
    "open_checkpoint",
    "open_foreign",
    "prune",
    "read_config",
    "read_foreign",
    "read_layers",
    "read_progress",
    "refuse_unsaid",
    "restore_training",
    "save",
    "save_precise_statistics",
    "sha256_tree",
    "sweep",
    "trust_program",
    "verify",
    "verify_checkpoint",
    "write_config",
    "write_folded",
    "write_metrics",
]
