"""Bodies of models: from raw rows to features. What answers is a head, see `nacre.heads`."""

from .body import Body
from .choice import BACKBONES, backbone, from_spec
from .classifier import Answer, Classifier
from .convnet import ConvNet
from .huggingface import HuggingFace
from .huggingface_text import HuggingFaceText, TextPool
from .mlp import MLP
from .pixels import Pixels
from .tapped import Tapped, tapped
from .tokenizer import Tokenizer

__all__ = [
    "BACKBONES",
    "MLP",
    "Answer",
    "Body",
    "Classifier",
    "ConvNet",
    "HuggingFace",
    "HuggingFaceText",
    "Pixels",
    "Tapped",
    "TextPool",
    "Tokenizer",
    "backbone",
    "from_spec",
    "tapped",
]
