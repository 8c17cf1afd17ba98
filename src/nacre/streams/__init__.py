"""Streams: what arrives in which order, made of data."""

from .given import Given, stream_of
from .kinds import STREAMS, class_incremental, stream, task_incremental
from .split import Data, Split, split

__all__ = ["STREAMS", "Data", "Given", "Split", "class_incremental", "split", "stream", "stream_of", "task_incremental"]
