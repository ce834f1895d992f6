"""The training step of a Keras model as one function of a flat weight vector: loss, optimizer, state and padding.

Nothing here is about TFLite: traced with TensorFlow's own gradients, the same functions train on a GPU.
"""
