"""How near a training step comes to the time that moving its activations takes at the least.

A network as small as cResNet20 computes little with every activation that it loads, so that memory
bounds its step on an accelerator. The bound is of a program in which every convolution and every pass
of a batch norm is one kernel that reads its operands and writes its result, with all elementwise work
fused into them; weights are left out:

    convolution, input x, output y    forward x + y; input's gradient y + x; weights' gradient x + y
    batch norm (and ReLU) of y        forward y for the moments, 2 y for the result;
                                      backward 2 y for the sums, 3 y for the gradient
    sum of a residual block, y        forward y for the shortcut; backward 3 y for the gradients' sum

No gradient reaches the images, so that the first convolution has no input's gradient.
"""

import functools
import statistics
import time

import flax.linen as nn
import jax
import jax.numpy as jnp

from benchmarks.contestants import CONTESTANTS, make_run, ours
from experiments.training import networks, steps

_COPIED_BYTES = 2**28


def moved_elements(network: nn.Module, images: jax.ShapeDtypeStruct) -> int:
    """Activations that a training step reads and writes, by the rules above.

    Example: one convolution of 2 to 3 channels without its input's gradient, and its batch norm.
      >>> network = networks.ConvNet(10, widths=(3,))
      >>> moved_elements(network, jax.ShapeDtypeStruct((1, 1, 1, 2), jnp.float32))
      34
    """
    moved, first = 0, True

    def note(call, arguments, keywords, context):
        nonlocal moved, first
        result = call(*arguments, **keywords)
        if context.method_name != "__call__":
            return result
        if isinstance(context.module, nn.Conv):
            moved += (2 if first else 3) * (arguments[0].size + result.size)
            first = False
        elif isinstance(context.module, nn.BatchNorm):
            moved += 8 * result.size
        elif isinstance(context.module, networks.BasicBlock | networks.Bottleneck):
            moved += 4 * result.size
        return result

    with nn.intercept_methods(note):
        init = functools.partial(network.init, train=True)
        jax.eval_shape(init, jax.random.key(0), images)
    return moved


def copy_bandwidth(quick: bool = False) -> float:
    """Bytes per second, read and written, of the fastest elementwise program."""
    values = jnp.zeros(_COPIED_BYTES // 4, jnp.float32)
    times, copy = [], jax.jit(lambda x: x + 1)
    count = 2 if quick else 20
    for _ in range(1 + (2 if quick else 9)):
        begin = time.perf_counter()
        for _ in range(count):  # the device has the next one when one ends
            values = copy(values)
        values.block_until_ready()
        times.append(time.perf_counter() - begin)
    return 2 * count * _COPIED_BYTES / statistics.median(times[1:])  # the first compiles


def measure(options, training: dict, quick: bool) -> dict:
    """The bound of a step of every contestant of this project, and its share of the measured time.

    `program_bytes` are those that XLA counts in the program that it compiled: operands and results of
    all kernels.
    """
    bandwidth = copy_bandwidth(quick)
    found = {}
    for name, values in training.items():
        contestant = CONTESTANTS[name]
        if contestant.func is not ours:
            continue
        run = make_run(options, **contestant.keywords)._replace(steps_per_call=1)
        network = run.program.model.network
        images = jax.ShapeDtypeStruct((run.batch_size, *run.images.shape[1:]), jnp.float32)
        bound = moved_elements(network, images) * jnp.dtype(network.dtype).itemsize
        seconds = run.batch_size / values["images_per_second"]["median"]
        cost = steps.compiled_call(run, steps.init_state(run)).cost_analysis()
        found[name] = {
            "bound_bytes": bound,
            "program_bytes": cost.get("bytes accessed"),
            "step_seconds": seconds,
            "share": bound / bandwidth / seconds,
        }
    return {"copy_bytes_per_second": bandwidth, "steps": found}
