"""The networks of `experiments.models` in NumPy alone, for predictions.

Weights are float32 arrays by dotted names, such as `params.Conv_0.kernel` and
`batch_stats.BatchNorm_0.mean`; images are `[B, H, W, C]`, kernels `[h, w, C, K]`.
"""

import numpy as np

EPSILON = np.float32(1e-5)  # of batch norm


def padded(x, size, stride, value=0.0, same=False):
    """Images with a border: of half a kernel's size, or as small as "SAME" has it."""
    border = [(size // 2, size // 2)] * 2
    if same:
        totals = [max((-(-n // stride) - 1) * stride + size - n, 0) for n in x.shape[1:3]]
        border = [(total // 2, total - total // 2) for total in totals]
    return np.pad(x, [(0, 0), *border, (0, 0)], constant_values=value)


def windows(x, size, stride):
    """What a square kernel sees at every place, `[B, H', W', C, size, size]`."""
    view = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
    return view[:, ::stride, ::stride]


def conv(x, weights, name, stride=1, same=False):
    """A square convolution without bias."""
    kernel = weights[f"params.{name}.kernel"]
    size = kernel.shape[0]
    seen = windows(padded(x, size, stride, same=same), size, stride)
    return np.tensordot(seen, kernel, axes=((4, 5, 3), (0, 1, 2)))


def batch_norm(x, weights, name):
    """Batch norm with the statistics that are stored beside the weights."""
    mean, var = (weights[f"batch_stats.{name}.{which}"] for which in ("mean", "var"))
    scale, bias = (weights[f"params.{name}.{which}"] for which in ("scale", "bias"))
    return (x - mean) * (scale / np.sqrt(var + EPSILON)) + bias


def relu(x):
    """The larger of `x` and 0."""
    return np.maximum(x, np.float32(0))


def conv_net(x, weights, stages):
    """3x3 convolution, batch norm and ReLU per stage; then a linear classifier."""
    for i in range(stages):
        x = conv(x, weights, f"Conv_{i}", 1 if i == 0 else 2, same=True)
        x = relu(batch_norm(x, weights, f"BatchNorm_{i}"))
    classifier = "params.Dense_0"
    return x.mean((1, 2)) @ weights[f"{classifier}.kernel"] + weights[f"{classifier}.bias"]


def block(x, weights, name, strides):
    """Convolutions with the given strides, and a shortcut around them."""
    y = x
    for i, stride in enumerate(strides):
        y = conv(y if i == 0 else relu(y), weights, f"{name}.Conv_{i}", stride)
        y = batch_norm(y, weights, f"{name}.BatchNorm_{i}")
    if f"params.{name}.shortcut.kernel" in weights:
        x = conv(x, weights, f"{name}.shortcut", max(strides))
        x = batch_norm(x, weights, f"{name}.shortcut_norm")
    return relu(x + y)


def residual_network(x, weights, blocks, bottleneck, large_stem):
    """Stages of `blocks` residual blocks; the classifier is a 1x1 convolution without bias."""
    x = relu(batch_norm(conv(x, weights, "Conv_0", 2 if large_stem else 1), weights, "BatchNorm_0"))
    if large_stem:
        x = windows(padded(x, 3, 2, value=-np.inf), 3, 2).max((4, 5))
    kind, number = "Bottleneck" if bottleneck else "BasicBlock", 0
    for stage, count in enumerate(blocks):
        for i in range(count):
            stride = 2 if stage > 0 and i == 0 else 1
            strides = (1, stride, 1) if bottleneck else (stride, 1)
            x = block(x, weights, f"{kind}_{number}", strides)
            number += 1
    return conv(x.mean((1, 2), keepdims=True), weights, "classifier")[:, 0, 0]
