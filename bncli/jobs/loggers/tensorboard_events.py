"""Event files for TensorBoard, in ``OUT/logs/tensorboard``; written without TensorFlow."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2, summary_pb2

from bncli.jobs.loggers.logger import LoggedImage, LoggedRun, finite

FOLDER = "tensorboard"
BINS = 30


class TensorboardEvents:
    """Writes one event file. It is written by this thread, so that a full disk is an error here and not a lost log."""

    id = ""

    def __init__(self, writer: EventsWriter) -> None:
        self._writer = writer

    def epoch(self, scalars: Mapping[str, float], layers: Mapping[str, np.ndarray], *, number: int) -> None:
        """Write the epoch as one step."""
        for name, value in scalars.items():
            self._write(summary.scalar(name, value), number)
        for name, array in layers.items():
            values = finite(array)
            if values.size:
                edges = np.histogram_bin_edges(values, BINS)
                self._write(summary.histogram(f"bn/{name}", values, bins=edges.tolist()), number)
        self._writer.flush()

    def end(self, scalars: Mapping[str, float], images: Sequence[LoggedImage], *, number: int) -> None:
        """Write the scores and the mistakes at the last step."""
        for name, value in scalars.items():
            self._write(summary.scalar(name, value), number)
        for place, image in enumerate(images, start=1):
            tag = f"mistakes/{place:02d} {image.caption}"
            self._write(summary.image(tag, image.image, dataformats="HWC"), number)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def purge(self, after: int) -> None:
        """Tell readers to forget the steps after ``after``, which the run does again."""
        session = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._writer.write_event(event_pb2.Event(wall_time=time.time(), step=after + 1, session_log=session))

    def _write(self, content: summary_pb2.Summary, step: int) -> None:
        self._writer.write_event(event_pb2.Event(wall_time=time.time(), step=step, summary=content))


def create(run: LoggedRun) -> TensorboardEvents:
    """A new event file beside those of earlier parts of the run."""
    folder = run.folder / FOLDER
    folder.mkdir(exist_ok=True)
    # Files are named by the second and the host alone: two parts of a run may begin within one second.
    logger = TensorboardEvents(EventsWriter(str(folder / "events"), f".{secrets.token_hex(4)}"))
    if run.epochs_done or len(list(folder.iterdir())) > 1:
        logger.purge(run.epochs_done)
    return logger
