"""Important lines that are changed on purpose: the tests that guard them fail.

Each mutation is made in a copy of the repository. A test that is named here must pass there before.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("subspace_jax", "experiments", "tests", "conftest.py", "setup.cfg")
LINKED = ("benchmarks", "docs", "examples", "notebooks", "results")

# A file, what is written there once, what takes its place, and the test that finds it.
MUTATIONS = (
    # Subspaces
    (
        "subspace_jax/subspaces.py",
        "(1 - alpha) * basis + alpha *",
        "alpha * basis + (1 - alpha) *",
        "test_subspaces.py::test_points_are_sums_of_endpoints_inside_and_outside",
    ),
    (
        "subspace_jax/subspaces.py",
        "normalised(jax.random.exponential(key, (num_endpoints,)))",
        "normalised(jax.random.uniform(key, (num_endpoints,)))",
        "test_subspaces.py::test_random_points_are_uniform",
    ),
    (
        "subspace_jax/subspaces.py",
        "jax.vmap(one)(jax.random.split(key, self.num_endpoints))",
        "jax.vmap(one)(jnp.stack([key] * self.num_endpoints))",
        "test_subspaces.py::test_init_draws_the_endpoints_independently",
    ),
    # Recalibration
    (
        "subspace_jax/recalibration.py",
        "share * (1 - share) * jnp.abs(new_leaves",
        "share * jnp.abs(new_leaves",
        "test_recalibration.py::test_statistics_are_those_of_the_concatenated_data",
    ),
    (
        "subspace_jax/recalibration.py",
        "share = (count / total).astype",
        "share = (0.5 * count / count).astype",
        "test_recalibration.py::test_num_examples_weighs_the_batches",
    ),
    # Averaging
    (
        "subspace_jax/averaging.py",
        "optax.incremental_update(new, state.ema, 1 - decay)",
        "optax.incremental_update(new, state.ema, decay)",
        "test_averaging.py::test_ema_is_the_average_of_the_parameters_and_changes_no_update",
    ),
    (
        "subspace_jax/averaging.py",
        "    due = (step >= start_step) & ((step - start_step) % every == 0)\n    count",
        "    due = (step > start_step) & ((step - start_step) % every == 0)\n    count",
        "test_averaging.py::test_swa_is_the_plain_mean_of_the_visited_networks",
    ),
    # Metrics
    (
        "subspace_jax/arrays.py",
        "padding = weights == 0",
        "padding = weights < 0",
        "test_metrics.py::test_padding_has_no_effect",
    ),
    (
        "subspace_jax/metrics.py",
        "(errors.sum(1) / jnp.asarray(baseline, errors.dtype).sum(1)).mean()",
        "errors.sum() / jnp.asarray(baseline, errors.dtype).sum()",
        "test_metrics.py::test_mean_corruption_errors_are_means_of_ratios",
    ),
    (
        "subspace_jax/prediction.py",
        "jax.nn.logsumexp(log_probs, axis=0) - math.log(logits.shape[0])",
        "jax.nn.logsumexp(log_probs, axis=0)",
        "test_prediction.py::test_ensembles_average_probabilities_or_logits",
    ),
    # Corruptions
    (
        "subspace_jax/corruptions/severities.py",
        '"frost": ((1, 0.2)',
        '"frost": ((1, 0.25)',
        "test_corruptions.py::test_the_tables_are_the_published_ones",
    ),
    (
        "subspace_jax/corruptions/noise.py",
        "jnp.where(u < amount / 2, 0.0",
        "jnp.where(u < amount / 3, 0.0",
        "test_corruptions.py::test_noise_has_its_strength",
    ),
    # Data
    (
        "experiments/data/sets.py",
        "return _subset(split, ~chosen), _subset(split, chosen)",
        "return _subset(split, chosen), _subset(split, ~chosen)",
        "test_data.py::test_hold_out_is_the_one_it_always_was",
    ),
    (
        "experiments/data/augment.py",
        "jnp.where(flips, cropped[:, :, ::-1], cropped)",
        "cropped",
        "test_images.py::test_all_candidates_are_equally_likely",
    ),
    (
        "experiments/data/loader.py",
        "itertools.chain(examples[row:], examples[:row])",
        "examples[row:]",
        "test_loader.py::test_after_the_last_row_comes_the_first",
    ),
    # Labels
    (
        "experiments/data/labels.py",
        "(labels[chosen].astype(np.uint64) + 1 + draws % (num_classes - 1)) % num_classes",
        "(labels[chosen].astype(np.uint64) + draws % num_classes) % num_classes",
        "test_data.py::test_new_labels_are_uniform",
    ),
    (
        "experiments/data/sets.py",
        "parts._replace(train=parts.train._replace(labels=labels))",
        "parts",
        "test_readers.py::test_noise_reaches_the_labels_of_the_training_part_alone",
    ),
    # Steps
    (
        "experiments/training/steps.py",
        "jax.random.permutation(jax.random.fold_in(key, epoch), size)",
        "jax.random.permutation(key, size)",
        "test_train.py::test_an_epoch_is_a_permutation_and_differs_from_others",
    ),
    (
        "experiments/training/steps.py",
        "penalty=program.method.penalty(hyper),",
        "penalty=None,",
        "test_train.py::test_a_step_adds_the_penalty_of_its_method",
    ),
    (
        "subspace_jax/training.py",
        "map(widened, values)) / len(values)",
        "map(widened, values))",
        "test_training.py::test_training_is_sample_gradient_update",
    ),
    (
        "subspace_jax/training.py",
        "jax.random.fold_in(key, state.step)",
        "jax.random.fold_in(key, 0)",
        "test_training.py::test_randomness_is_a_function_of_key_and_step",
    ),
    # Schedules
    (
        "experiments/training/schedules.py",
        "lambda epoch: (epoch + 1) / max(length.warmup_epochs, 1)",
        "lambda epoch: epoch / max(length.warmup_epochs, 1)",
        "test_schedules.py::test_schedules_by_hand",
    ),
    (
        "experiments/training/schedules.py",
        "start = length.num_epochs - num_cycles * cycle",
        "start = length.num_epochs - num_models * cycle",
        "test_schedules.py::test_the_last_visit_ends_the_training_and_no_more_fit",
    ),
    # Checkpoints and resumed runs
    (
        "experiments/runs/checkpoint.py",
        'if restored.record["sha256"] != digest:',
        "if False:",
        "test_checkpoint.py::test_whole_arrays_that_the_record_is_not_of_are_damage",
    ),
    (
        "experiments/runs/checkpoint.py",
        "sorted(self._manager.all_steps(), reverse=True)",
        "sorted(self._manager.all_steps())",
        "test_checkpoint.py::test_restores_the_newest_state_and_its_record_exactly",
    ),
    (
        "experiments/training/steps.py",
        "for start in range(max(first - epoch * steps, 0), steps, per_call):",
        "for start in range(0, steps, per_call):",
        "test_train.py::test_the_batches_are_the_same_whatever_the_calls_and_the_start",
    ),
    (
        "experiments/training/history.py",
        'saved["epochs"], saved["step"], saved["sums"]',
        'saved["epochs"], saved["step"], {}',
        "test_train.py::test_a_run_that_goes_on_from_a_state_is_the_one_that_never_stopped",
    ),
    # Predictors, and what validation data choose
    (
        "experiments/evaluation/predictors.py",
        "jax.nn.log_softmax(ss.calibration.apply_temperature(test[0], temperature))",
        "jax.nn.log_softmax(ss.calibration.apply_temperature(test[0], temperature**2))",
        "test_predictors.py::test_a_record_is_of_the_mean_probabilities_of_its_networks",
    ),
    (
        "experiments/evaluation/predictors.py",
        "temperature = ss.calibration.fit_temperature(*validation)",
        "temperature = ss.calibration.fit_temperature(*test)",
        "test_predictors.py::test_a_record_is_of_the_mean_probabilities_of_its_networks",
    ),
    (
        "experiments/evaluation/evaluate.py",
        'held_out = splits["validation"], logits["validation"]',
        "held_out = splits[main], logits[main]",
        "test_evaluate.py::test_a_poisoned_test_split_changes_no_choice",
    ),
    (
        "experiments/evaluation/predictors.py",
        "ss.calibration.choose_point(logits,",
        "ss.calibration.choose_point(-logits,",
        "test_predictors.py::test_the_chosen_point_is_the_one_of_lowest_validation_nll",
    ),
    # Landscape
    (
        "subspace_jax/landscape.py",
        "v = (side - x * u) / height",
        "v = side / height",
        "test_landscape.py::test_the_plane_is_isometric",
    ),
    (
        "subspace_jax/landscape.py",
        "shift = jnp.matmul(xy, self.axes,",
        "shift = jnp.matmul(xy[..., ::-1], self.axes,",
        "test_landscape.py::test_coordinates_are_those_of_the_three_networks",
    ),
    (
        "subspace_jax/landscape.py",
        "(losses - ((1 - t) * losses[0] + t * losses[-1])).max()",
        "(losses - losses[0]).max()",
        "test_landscape.py::test_a_tilt_of_the_loss_does_not_change_its_barrier",
    ),
    # Summary and significance
    (
        "experiments/results/significance.py",
        "p_value * (len(tested) - rank)",
        "p_value * len(tested)",
        "test_significance.py::test_holm_is_that_of_its_definition",
    ),
    (
        "experiments/results/significance.py",
        "[ours - theirs for ours, theirs in pairs]",
        "[theirs - ours for ours, theirs in pairs]",
        "test_significance.py::test_effects_are_those_of_scipy",
    ),
    (
        "experiments/results/summary.py",
        'sign = 1 if metric == "accuracy" else -1',
        "sign = 1",
        "test_summary.py::test_gains_are_positive_where_the_midpoint_is_better",
    ),
    (
        "experiments/results/summary.py",
        'midpoint.get("validation")',
        "midpoint",
        "test_summary.py::test_the_test_split_is_never_read",
    ),
    # Export
    (
        "experiments/evaluation/points.py",
        "Chosen(name, coords, plan.weights[index], inside, nll)",
        "Chosen(name, coords, plan.weights[0], inside, nll)",
        "test_export.py::test_points_are_mixtures_of_what_a_method_trained",
    ),
    (
        "experiments/export/export.py",
        "_one(network.stats)}",
        "_one(networks.stats)}",
        "test_export.py::test_int8_weights_are_measured_beside_those_of_float32",
    ),
    (
        "experiments/export/formats.py",
        "axis=tuple(range(leaf.ndim - 1))",
        "axis=tuple(range(leaf.ndim))",
        "test_export.py::test_channels_have_scales_of_their_own_and_the_smallest_numbers_do_not_"
        "divide_by_zero",
    ),
    # Import
    (
        "experiments/import_weights/torch_names.py",
        "leaf.transpose(3, 2, 0, 1)",
        "leaf.transpose(3, 2, 1, 0)",
        "test_import_weights.py::test_kernels_are_transposed_and_a_dense_classifier_is_a_1x1_"
        "convolution",
    ),
    (
        "experiments/import_weights/torch_names.py",
        "tensor.transpose(2, 3, 1, 0)",
        "tensor.transpose(3, 2, 1, 0)",
        "test_import_weights.py::test_what_is_exported_is_imported_bit_for_bit",
    ),
)
TESTS = sorted({test for *_, test in MUTATIONS})


def test_every_mutation_is_of_one_place_and_has_its_test():
    for file, old, new, test in MUTATIONS:
        assert (ROOT / file).read_text().count(old) == 1, (file, old)
        assert old != new
        where, name = test.split("::")
        assert f"\ndef {name}(" in (ROOT / "tests" / where).read_text(), test


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
