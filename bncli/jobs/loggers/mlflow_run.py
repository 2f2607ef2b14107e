"""MLflow. ``MLFLOW_TRACKING_URI`` says where; by default the database ``OUT/logs/mlflow.db``, which needs no server.

MLflow has no histograms: percentiles of each BN array are logged as metrics.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import mlflow
import numpy as np
from mlflow.entities import Metric, Param

from bncli.jobs.loggers.logger import PROJECT, LoggedImage, LoggedRun, finite

PERCENTILES = (15, 50, 85)
# MLflow takes no more in one call.
_MAX_METRICS, _MAX_PARAMS = 1000, 100
# Longer values of parameters are refused.
_MAX_VALUE = 6000


class MlflowRun:
    """Logs to one run of MLflow."""

    def __init__(self, client: mlflow.MlflowClient, identifier: str) -> None:
        self.id = identifier
        self._client = client

    def epoch(self, scalars: Mapping[str, float], layers: Mapping[str, np.ndarray], *, number: int) -> None:
        """Log the epoch as one step."""
        percentiles = {key: value for name, array in layers.items() for key, value in _percentiles(name, array)}
        self._log({**scalars, **percentiles}, number)

    def end(self, scalars: Mapping[str, float], images: Sequence[LoggedImage], *, number: int) -> None:
        """Log the scores as metrics, and the mistakes as images."""
        self._log(scalars, number)
        for place, image in enumerate(images, start=1):
            pixels = np.squeeze(image.image) if image.image.shape[2] == 1 else image.image
            self._client.log_image(self.id, pixels, f"mistakes/{place:02d}.png")
        captions = [image.caption for image in images]
        self._client.log_text(self.id, json.dumps(captions, indent=2) + "\n", "mistakes/captions.json")

    def close(self) -> None:
        """Mark the run as finished; a resumed training opens it again."""
        self._client.set_terminated(self.id)

    def _log(self, scalars: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in scalars.items()]
        for start in range(0, len(metrics), _MAX_METRICS):
            self._client.log_batch(self.id, metrics=metrics[start : start + _MAX_METRICS])


def create(run: LoggedRun) -> MlflowRun:
    """The run of an earlier part of the training, or a new one."""
    logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of each table that it makes
    client = mlflow.MlflowClient(tracking_uri=tracking_uri(run.folder))
    identifier = run.ids.get("mlflow")
    if identifier is not None:
        client.update_run(identifier, status="RUNNING")
        return MlflowRun(client, identifier)
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    identifier = client.create_run(_experiment(client, name, run), run_name=run.name).info.run_id
    params = [Param(key, str(value)[:_MAX_VALUE]) for key, value in run.settings.items()]
    for start in range(0, len(params), _MAX_PARAMS):
        client.log_batch(identifier, params=params[start : start + _MAX_PARAMS])
    return MlflowRun(client, identifier)


def tracking_uri(folder: Path) -> str:
    """The place of the log: the user's, or a database in the folder of the run's logs."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.resolve() / 'mlflow.db'}"


def _experiment(client: mlflow.MlflowClient, name: str, run: LoggedRun) -> str:
    """The identifier of an experiment, which is made if it is not there; with its files beside an own database."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    is_own = not os.environ.get("MLFLOW_TRACKING_URI")
    artifacts = (run.folder.resolve() / "mlflow").as_uri() if is_own else None
    return str(client.create_experiment(name, artifact_location=artifacts))


def _percentiles(name: str, array: np.ndarray) -> list[tuple[str, float]]:
    values = finite(array)
    if not values.size:
        return []
    found = np.percentile(values, PERCENTILES).tolist()
    return [(f"bn/{name}/p{number}", value) for number, value in zip(PERCENTILES, found, strict=True)]
