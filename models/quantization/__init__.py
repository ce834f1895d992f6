"""A Keras model in int8: where its activations are quantized, how it is trained so, and the file that boards fill in.

`plan` reads the model's graph, `training` puts fake quantization into it, `template` makes the integer file and the
recipe by which `edge_peer.trainers.int8` writes a board's weights into it.

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
CVPR 2018 (https://arxiv.org/abs/1712.05877).
"""

from __future__ import annotations

from models.quantization import plan, template, training
from models.quantization.errors import QuantizationError

__all__ = ["QuantizationError", "plan", "template", "training"]
