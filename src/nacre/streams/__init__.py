"""Streams: what arrives in which order, made of data."""

from .anchored import Anchored
from .arrival import ARRIVALS, Arriving, arriving, offline, online, task_free
from .changed import Changed
from .first import First
from .from_data import Data, FromData
from .given import Given, Made, stream_of
from .kinds import STREAMS, Kind, stream
from .placed import Placed
from .returning import Returning
from .split import Split, split

__all__ = [
    "ARRIVALS",
    "STREAMS",
    "Anchored",
    "Arriving",
    "Changed",
    "Data",
    "First",
    "FromData",
    "Given",
    "Kind",
    "Made",
    "Placed",
    "Returning",
    "Split",
    "arriving",
    "offline",
    "online",
    "split",
    "stream",
    "stream_of",
    "task_free",
]
