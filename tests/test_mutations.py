"""Important lines that are changed on purpose: the tests that guard them fail.

Each mutation is made in a copy of the repository. A test that is named here must pass there before.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("subspace_jax", "experiments", "tests", "conftest.py", "setup.cfg")
LINKED = ("benchmarks", "docs", "examples", "notebooks", "results")

# A file, a test that finds the mutation by a part of its name, a line that is there once, and what
# takes its place.
TABLE = r"""
subspace_jax/subspaces.py: test_subspaces.py, points_are_sums
- (1 - alpha) * basis + alpha *
+ alpha * basis + (1 - alpha) *
subspace_jax/subspaces.py: test_subspaces.py, random_points_are
- normalised(jax.random.exponential(key, (n,)))
+ normalised(jax.random.uniform(key, (n,)))
subspace_jax/subspaces.py: test_subspaces.py, init_draws_the
- jax.vmap(one)(jax.random.split(key, self.num_endpoints))
+ jax.vmap(one)(jnp.stack([key] * self.num_endpoints))
subspace_jax/recalibration.py: test_recalibration.py, statistics_are_those
- share * (1 - share) * jnp.abs(new_leaves
+ share * jnp.abs(new_leaves
subspace_jax/recalibration.py: test_recalibration.py, num_examples_weighs
- share = (count / total).astype
+ share = (0.5 * count / count).astype
subspace_jax/averaging.py: test_averaging.py, ema_is_the
- -jnp.expm1(step.astype(jnp.float32)
+ -jnp.expm1(state.step.astype(jnp.float32)
subspace_jax/averaging.py: test_averaging.py, swa_is_the
-     due = (step >= start_step) & ((step - start_step) % every == 0)
-     count
+     due = (step > start_step) & ((step - start_step) % every == 0)
+     count
subspace_jax/arrays.py: test_metrics.py, padding_has_no
- padding = weights == 0
+ padding = weights < 0
subspace_jax/metrics.py: test_metrics.py, mean_corruption_errors
- (errors.sum(1) / jnp.asarray(baseline, errors.dtype).sum(1)).mean()
+ errors.sum() / jnp.asarray(baseline, errors.dtype).sum()
subspace_jax/prediction.py: test_prediction.py, ensembles_average_probabilities
- jax.nn.logsumexp(log_probs, axis=0) - math.log(logits.shape[0])
+ jax.nn.logsumexp(log_probs, axis=0)
subspace_jax/corruptions/severities.py: test_corruptions.py, the_tables_are
- "frost": ((1, 0.2)
+ "frost": ((1, 0.25)
subspace_jax/corruptions/noise.py: test_corruptions.py, noise_has_its
- jnp.where(u < amount / 2, 0.0
+ jnp.where(u < amount / 3, 0.0
experiments/data/sets.py: test_data.py, hold_out_is
- return _subset(split, ~chosen), _subset(split, chosen)
+ return _subset(split, chosen), _subset(split, ~chosen)
experiments/data/augment.py: test_images.py, all_candidates_are
- jnp.where(flips, cropped[:, :, ::-1], cropped)
+ cropped
experiments/data/loader.py: test_loader.py, after_the_last
- itertools.chain(examples[row:], examples[:row])
+ examples[row:]
experiments/data/labels.py: test_data.py, new_labels_are
- (labels[chosen].astype(np.uint64) + 1 + draws % (num_classes - 1)) % num_classes
+ (labels[chosen].astype(np.uint64) + draws % num_classes) % num_classes
experiments/data/sets.py: test_readers.py, noise_reaches_the
- parts._replace(train=parts.train._replace(labels=labels))
+ parts
experiments/training/steps.py: test_train.py, an_epoch_is
- jax.random.permutation(jax.random.fold_in(key, epoch), size)
+ jax.random.permutation(key, size)
experiments/training/steps.py: test_train.py, a_step_adds
- penalty=program.method.penalty(hyper),
+ penalty=None,
subspace_jax/training.py: test_training.py, training_is_sample
- map(widened, values)) / len(values)
+ map(widened, values))
subspace_jax/training.py: test_training.py, randomness_is_a
- jax.random.fold_in(key, state.step)
+ jax.random.fold_in(key, 0)
experiments/training/schedules.py: test_schedules.py, schedules_by_hand
- lambda epoch: (epoch + 1) / max(length.warmup_epochs, 1)
+ lambda epoch: epoch / max(length.warmup_epochs, 1)
experiments/training/schedules.py: test_schedules.py, the_last_visit
- start = length.num_epochs - num_cycles * cycle
+ start = length.num_epochs - num_models * cycle
experiments/runs/checkpoint.py: test_checkpoint.py, whole_arrays_that
- if restored.record["sha256"] != digest:
+ if False:
experiments/runs/checkpoint.py: test_checkpoint.py, restores_the_newest
- sorted(self._manager.all_steps(), reverse=True)
+ sorted(self._manager.all_steps())
experiments/training/steps.py: test_train.py, the_batches_are
- for start in range(max(first - epoch * steps, 0), steps, per_call):
+ for start in range(0, steps, per_call):
experiments/training/history.py: test_train.py, a_run_that
- saved["epochs"], saved["step"], saved["sums"]
+ saved["epochs"], saved["step"], {}
experiments/evaluation/predictors.py: test_predictors.py, a_record_is
- jax.nn.log_softmax(ss.calibration.apply_temperature(test[0], temperature))
+ jax.nn.log_softmax(ss.calibration.apply_temperature(test[0], temperature**2))
experiments/evaluation/predictors.py: test_predictors.py, a_record_is
- temperature = ss.calibration.fit_temperature(*validation)
+ temperature = ss.calibration.fit_temperature(*test)
experiments/evaluation/evaluate.py: test_evaluate.py, a_poisoned_test
- held_out = splits["validation"], logits["validation"]
+ held_out = splits[main], logits[main]
experiments/evaluation/predictors.py: test_predictors.py, the_chosen_point
- ss.calibration.choose_point(logits,
+ ss.calibration.choose_point(-logits,
subspace_jax/landscape.py: test_landscape.py, the_plane_is
- v = (side - x * u) / height
+ v = side / height
subspace_jax/landscape.py: test_landscape.py, coordinates_are_those
- shift = jnp.matmul(xy, self.axes,
+ shift = jnp.matmul(xy[..., ::-1], self.axes,
subspace_jax/landscape.py: test_landscape.py, a_tilt_of
- (losses - ((1 - t) * losses[0] + t * losses[-1])).max()
+ (losses - losses[0]).max()
subspace_jax/calibration.py: test_calibration.py, sets_are_those
- (len(scores) + 1) * (1 - alpha)
+ len(scores) * (1 - alpha)
subspace_jax/metrics.py: test_metrics.py, smooth_ece_is
- wider = error(middle) > middle
+ wider = error(middle) > middle / 2
experiments/results/significance.py: test_significance.py, holm_is_that
- p_value * (len(tested) - rank)
+ p_value * len(tested)
experiments/results/significance.py: test_significance.py, effects_are_those
- [ours - theirs for ours, theirs in pairs]
+ [theirs - ours for ours, theirs in pairs]
experiments/results/summary.py: test_summary.py, gains_are_positive
- sign = 1 if metric == "accuracy" else -1
+ sign = 1
experiments/results/summary.py: test_summary.py, the_test_split
- midpoint.get("validation")
+ midpoint
experiments/evaluation/points.py: test_export.py, points_are_mixtures
- Chosen(name, coords, plan.weights[index], inside, nll)
+ Chosen(name, coords, plan.weights[0], inside, nll)
experiments/export/export.py: test_export.py, int8_weights_are
- _one(network.stats)}
+ _one(networks.stats)}
experiments/export/formats.py: test_export.py, channels_have_scales
- axis=tuple(range(leaf.ndim - 1))
+ axis=tuple(range(leaf.ndim))
experiments/import_weights/torch_names.py: test_import_weights.py, kernels_are_transposed
- leaf.transpose(3, 2, 0, 1)
+ leaf.transpose(3, 2, 1, 0)
experiments/import_weights/torch_names.py: test_import_weights.py, what_is_exported
- tensor.transpose(2, 3, 1, 0)
+ tensor.transpose(3, 2, 1, 0)
"""


def mutations():
    """A file, its line, what takes its place, and the test."""
    for entry in re.split(r"\n(?=\w)", TABLE.strip()):
        (head, *lines) = entry.split("\n")
        file, where, name = re.split(": |, ", head)
        old, new = ("\n".join(x[2:] for x in lines if x[0] == sign) for sign in "-+")
        named = re.findall(
            rf"^def (test_\w*{name}\w*)\(", (ROOT / "tests" / where).read_text(), re.M
        )
        assert len(named) == 1, entry
        yield file, old, new, f"{where}::{named[0]}"


MUTATIONS = tuple(mutations())
TESTS = sorted({test for *_, test in MUTATIONS})


def test_every_mutation_is_of_one_place():
    for file, old, new, _ in MUTATIONS:
        assert (ROOT / file).read_text().count(old) == 1, (file, old)
        assert old != new


def run_tests(folder, *tests):
    """Pytest with the modules of a folder: 0 if all tests pass, 1 if one fails, more on errors."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-x"]
    return subprocess.run(
        [*command, *(f"tests/{test}" for test in tests)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the repository, whose tests pass."""
    folder = tmp_path_factory.mktemp("copy")
    for name in COPIED:
        put = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        put(ROOT / name, folder / name)
    for name in LINKED:
        (folder / name).symlink_to(ROOT / name)
    done = run_tests(folder, *TESTS)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "old", "new", "test"), MUTATIONS, ids=[f"{m[0]}: {m[1]}" for m in MUTATIONS]
)
def test_a_mutation_is_found(copy, file, old, new, test):
    original = (copy / file).read_text()
    (copy / file).write_text(original.replace(old, new))
    try:
        done = run_tests(copy, test)
    finally:
        (copy / file).write_text(original)
    assert done.returncode == 1, done.stdout + done.stderr
