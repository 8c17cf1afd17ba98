"""Bodies of models: from raw rows to features. What answers is a head, see `nacre.heads`."""

from .body import Body
from .choice import BACKBONES, backbone, from_spec
from .classifier import Answer, Classifier
from .convnet import ConvNet
from .huggingface import HuggingFace
from .mlp import MLP
from .pixels import Pixels
from .tapped import Tapped, tapped

__all__ = [
    "BACKBONES",
    "MLP",
    "Answer",
    "Body",
    "Classifier",
    "ConvNet",
    "HuggingFace",
    "Pixels",
    "Tapped",
    "backbone",
    "from_spec",
    "tapped",
]
