"""`models/small_cnn.py` and one step of SGD as obvious loops in float64: too slow to use, plain enough to believe."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
SHAPES = ((3, 3, 1, 4), (4,), (3, 3, 4, 6), (6,), (54, 16), (16,), (16, 10), (10,))


def split(vector: npt.NDArray[np.float32]) -> list[F64]:
    parts, offset = [], 0
    for shape in SHAPES:
        size = math.prod(shape)
        parts.append(vector[offset : offset + size].astype(np.float64).reshape(shape))
        offset += size
    assert offset == vector.size
    return parts


def conv(x: F64, kernel: F64, bias: F64) -> F64:
    """3x3, stride 2, padding `same`: with an even size that is one row and column of zeros at the end."""
    n, height, width, _ = x.shape
    padded = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    y = np.zeros((n, height // 2, width // 2, kernel.shape[3]))
    for row in range(height // 2):
        for column in range(width // 2):
            patch = padded[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3, :]
            y[:, row, column, :] = np.einsum("nijc,ijco->no", patch, kernel) + bias
    return y


def conv_gradient(x: F64, kernel: F64, dy: F64) -> tuple[F64, F64, F64]:
    """Of the input, of the kernel and of the bias."""
    padded = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    dx, dkernel = np.zeros_like(padded), np.zeros_like(kernel)
    for row in range(dy.shape[1]):
        for column in range(dy.shape[2]):
            place = np.s_[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3, :]
            dkernel += np.einsum("nijc,no->ijco", padded[place], dy[:, row, column, :])
            dx[place] += np.einsum("no,ijco->nijc", dy[:, row, column, :], kernel)
    return dx[:, :-1, :-1, :], dkernel, dy.sum((0, 1, 2))


def logits(vector: npt.NDArray[np.float32], x: npt.NDArray[np.uint8]) -> F64:
    k1, b1, k2, b2, w3, b3, w4, b4 = split(vector)
    h1 = np.maximum(conv(x / 255.0, k1, b1), 0)
    h2 = np.maximum(conv(h1, k2, b2), 0)
    h3 = np.maximum(h2.reshape(len(x), -1) @ w3 + b3, 0)
    result: F64 = h3 @ w4 + b4
    return result


def losses(scores: F64, y: npt.NDArray[np.int32]) -> F64:
    """Softmax cross-entropy of each example."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    result: F64 = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(y)), y]
    return result


def step(
    vector: npt.NDArray[np.float32], x: npt.NDArray[np.uint8], y: npt.NDArray[np.int32], rate: float
) -> tuple[F64, float]:
    """One step of SGD on the mean loss of a batch: the new weights, and the loss before."""
    k1, b1, k2, b2, w3, b3, w4, b4 = split(vector)
    x0 = x / 255.0
    a1 = conv(x0, k1, b1)
    h1 = np.maximum(a1, 0)
    a2 = conv(h1, k2, b2)
    h2 = np.maximum(a2, 0)
    flat = h2.reshape(len(x), -1)
    a3 = flat @ w3 + b3
    h3 = np.maximum(a3, 0)
    scores = h3 @ w4 + b4
    loss = float(losses(scores, y).mean())

    d4 = np.exp(scores - scores.max(axis=1, keepdims=True))
    d4 /= d4.sum(axis=1, keepdims=True)
    d4[np.arange(len(y)), y] -= 1
    d4 /= len(y)
    d3 = (d4 @ w4.T) * (a3 > 0)
    d2 = (d3 @ w3.T).reshape(h2.shape) * (a2 > 0)
    dh1, dk2, db2 = conv_gradient(h1, k2, d2)
    _, dk1, db1 = conv_gradient(x0, k1, dh1 * (a1 > 0))
    gradients = (dk1, db1, dk2, db2, flat.T @ d3, d3.sum(0), h3.T @ d4, d4.sum(0))
    flat_gradient = np.concatenate([it.reshape(-1) for it in gradients])
    return vector.astype(np.float64) - rate * flat_gradient, loss
