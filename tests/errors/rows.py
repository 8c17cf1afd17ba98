"""All rows of docs/errors.md by section, and the text of its tables."""

from __future__ import annotations

from tests.errors import (
    rows_adapters,
    rows_backbones,
    rows_blocks,
    rows_checkpoints,
    rows_checks,
    rows_command,
    rows_config,
    rows_data,
    rows_datasets,
    rows_files,
    rows_integrations,
    rows_learner,
    rows_ranks,
    rows_rules,
    rows_runs,
    rows_streams,
    rows_sweep,
    rows_texts,
)
from tests.errors.row import Row, page

SECTIONS: dict[str, list[Row]] = {
    "The command line": rows_command.COMMANDS,
    "Config files": rows_config.FILES,
    "Settings of a config": rows_config.TABLES,
    "Parts and their settings": rows_config.PARTS,
    "Parts of others": rows_config.PLUGINS,
    "Paths to data": rows_files.PATHS,
    "MNIST-format files": rows_files.IDX,
    "Files of numpy": rows_files.NPZ,
    "Tables": rows_files.TABLES,
    "Datasets in Hugging Face form": rows_datasets.DATASETS,
    "Pictures": rows_files.PICTURES,
    "Blocks": rows_blocks.BLOCKS,
    "Arrays": rows_data.ARRAYS,
    "Sources and texts": rows_data.SOURCE,
    "Augmentation": rows_data.AUGMENT,
    "Streams": rows_data.STREAMS,
    "Kinds of streams": rows_streams.KINDS,
    "Rows met once, and streams without borders": rows_streams.ARRIVAL,
    "Backbones by name": rows_backbones.NAMES,
    "Backbones in folders": rows_backbones.FOLDERS,
    "Backbones by description": rows_backbones.SPECS,
    "Encoders of texts": rows_texts.ENCODERS,
    "Texts and tokens": rows_texts.TEXTS,
    "Modules and pixels": rows_backbones.MODULES,
    "Stages and learners": rows_learner.STAGES,
    "Drives": rows_learner.DRIVES,
    "Rules around an optimizer": rows_learner.RULES,
    "Rules of moves": rows_rules.MOVES,
    "Methods, heads and their settings": rows_learner.METHODS,
    "Taking over a checkpoint": rows_learner.CHECKPOINTS,
    "The parts of a run": rows_runs.TRIALS,
    "nacre.fit": rows_runs.FITS,
    "Folders of runs": rows_runs.FOLDERS,
    "Records": rows_runs.RECORDS,
    "Sweeps": rows_sweep.SWEEPS,
    "Models that predict": rows_runs.MODELS,
    "Adapters": rows_adapters.ADAPTERS,
    "Exports, and files to predict": rows_adapters.EXPORTS,
    "nacre.Classifier": rows_adapters.ESTIMATORS,
    "Loops of others": rows_integrations.LOOPS,
    "Trackers": rows_integrations.TRACKERS,
    "Files of checkpoints": rows_checkpoints.CHECKPOINTS,
    "Saving": rows_checkpoints.SAVING,
    "Several processes": rows_ranks.RANKS,
    "Checks of parts": rows_checks.CHECKS,
}


def text() -> str:
    """The tables of docs/errors.md."""
    return page(SECTIONS)
