"""Other people's training loops: each hands its steps to `nacre.Drive`, the only order of hooks there is.

`nacre.integrations.transformers` for the Hugging Face Trainer, `.lightning` for Lightning, `.accelerate` for loops of one's own
under accelerate, `.trackers` for TensorBoard, W&B, MLflow and trackio. Each needs its package and is imported by its name.
"""

__all__ = []
