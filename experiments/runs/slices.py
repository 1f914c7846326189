"""The plane of the loss through a run's networks."""

from collections.abc import Sequence

import jax

from experiments.data.sets import Dataset
from experiments.evaluation import landscape, predict
from experiments.training import weights
from experiments.training.run import Run
from subspace_jax.tree import PyTree

# The stream of a run's randomness that landscapes take.
STREAM = 5


def plane_of(
    run: Run,
    settings: predict.Settings,
    data: Dataset,
    stacks: Sequence[PyTree],
    resolution: int,
    wrap: predict.Wrap,
) -> dict:
    """The record of the plane through a run's networks; see `landscape.slice_record`.

    Args:
      run, settings: of the networks.
      data: whose test split is predicted.
      stacks: of the run and, for a line, of one more network.
      resolution: points along each axis.
      wrap: what the batches pass through.
    """
    single = predict.Single(run.program.model, settings.recalibration_augment)
    return landscape.slice_record(
        run.program.method.subspace,
        weights.concatenate(stacks),
        single.moments,
        single.logits,
        predict.recalibration_batches(run, settings),
        data.test,
        key=jax.random.fold_in(jax.random.key(run.seed), STREAM),
        resolution=resolution,
        wrap=wrap,
        batch_size=settings.batch_size,
    )
