"""The default recipe: what it chooses, what it keeps, and that every choice has a reason."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from twins.data.summary import DataSummary
from twins.engine.config import TrainConfig
from twins.engine.schedule import scheduled_rate
from twins.tasks.default_recipe import Chooser, changed_settings, mirror_reason, round_side, with_setting
from twins.tasks.recipes import recipes_of, starting_point
from twins.tasks.table import TASKS


def summary(**changes):
    sides = np.sort(np.random.default_rng(0).uniform(0.02, 0.2, 500))
    values = {"images": 300, "val_images": 60, "names": ("cat", "dog"), "height": 480, "width": 640, "sides": sides}
    return DataSummary(**{**values, "per_image": 5.0, **changes})


def machine(seconds_per_megapixel):
    """The measured seconds of training on an image, as of a machine of constant speed."""
    return lambda config, shape: 1e-6 * seconds_per_megapixel * shape[0] * shape[1]


def choose(config, data=None, given=(), speed=2.0):
    chooser = Chooser(config, given, data or summary(), machine(speed))
    recipes_of(config.task).choose(chooser)
    return chooser.finish()


def start(task, **settings):
    return replace(starting_point(data="DIR", task=task, weights="none"), **settings)


@pytest.mark.parametrize("task", TASKS)
def test_what_is_given_is_kept_and_everything_else_that_changed_has_a_reason(task):
    given = {"size": 64, "batch_size": 2, "optimizer.lr": 0.5, "drop_path": 0.3}
    config = start(task, minutes=3.0)
    for name, value in given.items():
        config = with_setting(config, name, value)
    chosen, choices = choose(config, given=given)
    assert {(name, value) for name, value in given.items() if with_setting(chosen, name, value) != chosen} == set()
    names = {choice.setting for choice in choices}
    assert not names & set(given)
    assert changed_settings(chosen) - changed_settings(config) <= names | {"epochs"}
    assert all(choice.reason and choice.setting in choice.line() for choice in choices)


@pytest.mark.parametrize("task", TASKS)
def test_a_run_without_a_time_budget_is_chosen_without_the_machine(task):
    def never(config, shape):
        raise AssertionError

    for length in ({}, {"epochs": 5.0}, {"steps": 50}):
        config, given = start(task, **length), set(length)
        chooser = Chooser(config, given, summary(), never)
        recipes_of(task).choose(chooser)
        for name, value in length.items():
            assert getattr(chooser.config, name) == value


@pytest.mark.parametrize("task", TASKS)
def test_a_slower_machine_trains_on_smaller_images_never_below_the_smallest_input(task):
    side = "semantic.crop" if task == "semantic" else "size"

    def sides(speed):
        choices = choose(start(task, minutes=3.0), speed=speed)[1]
        return next(choice.value for choice in choices if choice.setting == side)

    chosen = [sides(speed) for speed in (0.1, 1.0, 10.0, 1000.0)]
    assert chosen == sorted(chosen, reverse=True)
    assert chosen[0] > chosen[-1] >= 32


def reasons(choices):
    return {choice.setting: choice.reason for choice in choices}


def test_reasons_name_the_network_as_it_is_and_both_sizes_between_which_the_time_decides():
    config = start("classification", model="twins_svt_large", minutes=3.0)
    found = reasons(choose(config, speed=50.0)[1])
    assert found["drop_path"] == found["optimizer.layer_decay"] == "a large network from random weights"
    assert found["size"] == "3 minutes are enough for 220 images of this size, at 224 pixels for 40"
    assert reasons(choose(start("semantic", steps=9))[1])["batch_size"] == "the number of steps is given"
    choices = choose(start("semantic", minutes=0.01), speed=50.0)[1]
    assert choices[-1].line() == "semantic.photometric off: less than one pass over the images"


def test_later_choices_follow_a_given_crop():
    config = with_setting(start("semantic", minutes=3.0), "semantic.crop", 96)
    large, small = (choose(config, given=given)[0] for given in ((), {"semantic.crop"}))
    assert large.semantic.crop > small.semantic.crop == 96
    assert small.epochs > large.epochs


@pytest.mark.parametrize(("steps", "few"), [(30, True), (1_900, True), (2_000, False)])
def test_a_short_run_is_not_made_harder_by_scales_and_colours(steps, few):
    """Batches of 16 of 1,600 images: 0.3, 19 and 20 passes."""
    length = {"steps": steps, "batch_size": 16}
    semantic = choose(start("semantic", **length), summary(images=1600), given=set(length))[0].semantic
    detection = choose(start("instance", **length), summary(images=1600), given=set(length))[0].detection
    assert (detection.ratio == (1.0, 1.0)) == few
    assert semantic.photometric == (steps >= 2_000)
    assert (semantic.ratio == (1.0, 1.0)) == (steps < 1_500)
    length = {"steps": 600, "batch_size": 16}  # many passes over few images
    semantic, choices = choose(start("semantic", **length), summary(images=40), given=set(length))
    assert semantic.semantic.ratio == (0.75, 1.5)
    assert reasons(choices)["semantic.photometric"] == "a short run, of about 600 steps"


@pytest.mark.parametrize("task", TASKS)
def test_the_rate_of_a_detector_stays_far_from_zero_for_longer_than_a_cosine(task):
    config, _ = choose(start(task, steps=400))
    assert scheduled_rate(config, 1.0) == 0.0
    late = scheduled_rate(config, 0.8) / config.lr
    assert late == pytest.approx(0.2 if task in ("detection", "instance") else 0.095, abs=0.001)


@pytest.mark.parametrize(("objects", "regions"), [(0.0, 64), (7.0, 64), (21.0, 128), (400.0, 512)])
def test_a_second_stage_trains_on_about_eight_regions_per_object(objects, regions):
    assert choose(start("instance", steps=100), summary(per_image=objects))[0].detection.samples == regions


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("weights", ["none", "published", "mine.safetensors"])
def test_every_data_set_gets_settings_that_hold_together(task, weights):
    random = np.random.default_rng(3)
    for _ in range(40):
        images, sides = int(10 ** random.uniform(0, 5)), random.uniform(0.001, 1.0, random.integers(0, 50))
        height, width = random.integers(1, 4000, 2).tolist()
        data = summary(images=images, val_images=int(random.integers(1, 2 + images)), height=height, width=width)
        data = replace(data, sides=np.sort(sides), names=tuple("abcdef"[: random.integers(1, 6)]))
        model = "twins_svt_small" if weights == "published" else "twins_svt_nano"
        minutes = float(10 ** random.uniform(-1.5, 3)) if random.random() < 0.7 else None
        config = replace(start(task, minutes=minutes), weights=weights, model=model)
        chosen, _ = choose(config, data, speed=float(10 ** random.uniform(-2, 2)))
        assert isinstance(chosen, TrainConfig)  # its checks passed at each change
        assert chosen.size % 32 == 0 or chosen.size == data.shorter
        assert 1 <= chosen.batch_size <= 64
        assert chosen.eval_every > 0


def test_the_last_batch_of_a_small_set_is_not_larger_than_the_set():
    chosen, _ = choose(start("classification"), summary(images=6, height=64, width=64))
    assert chosen.batch_size <= 8


@pytest.mark.parametrize("task", TASKS)
def test_the_batch_is_a_multiple_of_passes_times_processes(task):
    for length in ({}, {"minutes": 0.5}):
        chooser = Chooser(start(task, accumulate=3, **length), {"accumulate"}, summary(), machine(2.0), processes=2)
        recipes_of(task).choose(chooser)
        assert chooser.config.batch_size % 6 == 0


def test_more_processes_train_on_more_images_in_the_same_minutes():
    config = start("detection", minutes=3.0)
    one, four = (Chooser(config, {}, summary(), machine(2.0), processes=n).images(320, 8) for n in (1, 4))
    assert four == pytest.approx(4 * one)


@pytest.mark.parametrize("length", [{}, {"epochs": 1.0}, {"steps": 1}])
def test_a_batch_larger_than_the_set_is_counted_as_the_set(length):
    config = start("classification", batch_size=1000, **length)
    chosen, choices = choose(config, summary(images=16), given={"batch_size", *length})
    reasons = {choice.setting: choice.reason for choice in choices}
    assert reasons["optimizer.betas"].endswith(" about 1 step" if length else f" about {chosen.epochs:.0f} steps")
    assert reasons["augment.scale"].startswith("1 pass " if length else f"{chosen.epochs:.0f} passes ")
    assert reasons.get("epochs", "") == ("" if length else f"{chosen.epochs:.0f} steps of 16 images")


@pytest.mark.parametrize(
    ("names", "mirrored"),
    [
        (("cat", "dog"), True),
        (("0", "1", "2"), False),
        (("00014", "00015"), False),
        (("A", "B"), False),
        (("left hand", "right hand"), False),
        (("bright", "leftover"), True),
        (("background", "0", "1"), False),
        (("background",), True),
        ((), True),
    ],
)
def test_classes_that_a_mirror_changes_are_told_by_their_names(names, mirrored):
    assert (mirror_reason(names) is None) == mirrored


def test_the_fixed_time_of_a_step_and_the_loading_of_images_count():
    def expensive(config, shape):
        return 0.2 + 8 * 1e-7 * shape[0] * shape[1]

    run = Chooser(start("detection", minutes=3.0), {}, summary(), expensive, probe=8)
    assert run.seconds(320, 2) == pytest.approx(0.1 + 1e-7 * 320 * 427, rel=0.01)
    assert run.images(320, 16) > 3 * run.images(320, 2)
    slow = Chooser(start("detection", minutes=3.0), {}, summary(), expensive, probe=8, loading=lambda config: 60.0)
    assert slow.affordable(320, smallest=96, least=1e9, batch=2) == 320
    assert slow.images(96, 2) == slow.images(320, 2) < run.images(320, 2)


@pytest.mark.parametrize(("fixed", "side"), [(0.0, 96), (0.2, 320)])
def test_a_smaller_size_is_chosen_only_if_it_trains_on_many_more_images(fixed, side):
    """At 0.2 s a step of two images, 224 pixels instead of 320 bring 7 % more images, not 104 % as their pixels."""

    def cost(config, shape):
        return fixed + 2 * 1e-7 * shape[0] * shape[1]

    run = Chooser(start("detection", minutes=3.0), {}, summary(), cost, probe=2)
    assert run.images(224, 2) > run.images(320, 2)
    assert run.affordable(320, smallest=96, least=1e9, batch=2) == side


@pytest.mark.parametrize(("minutes", "side"), [(8.0, 320), (6.0, 256), (4.8, 250), (3.0, 192)])
def test_the_own_side_of_images_is_among_the_smaller_sizes(minutes, side):
    run = Chooser(start("detection", minutes=minutes), {}, summary(height=250, width=250), machine(4.0))
    assert run.affordable(320, smallest=96, least=850, batch=2) == side


def test_images_are_never_enlarged_beyond_the_smallest_size():
    assert [round_side(999, 96, 512, own) for own in (80, 112, 640, 700)] == [96, 112, 512, 512]
    assert [round_side(side, 96, 512, 640) for side in (100, 130)] == [96, 128]
    for task in ("classification", "semantic"):
        chosen, _ = choose(start(task, steps=1000), summary(height=112, width=150))
        assert chosen.size <= 112


@pytest.mark.parametrize(("minutes", "side"), [(1.0, 112), (3.0, 128), (20.0, 160)])
def test_tiny_objects_do_not_keep_a_short_training_from_smaller_sizes(minutes, side):
    """Objects of 3 pixels need far more than 160, but the smallest size is at most the images' own."""
    data = summary(height=112, width=112, sides=np.full(50, 0.03), images=10_000)
    chosen, _ = choose(start("detection", minutes=minutes), data, speed=8.0)
    assert chosen.size == side


@pytest.mark.parametrize("task", ["detection", "instance"])
@pytest.mark.parametrize(
    ("height", "width", "smallest", "side"),
    [
        (480, 480, 0.02, 800),
        (480, 640, 0.02, 800),
        (480, 854, 0.02, 736),
        (480, 1280, 0.02, 480),
        (480, 4000, 0.02, 480),
        (480, 480, 0.2, 256),
        (112, 112, 0.1, 160),
        (80, 80, 0.1, 128),
        (40, 40, 0.1, 96),
    ],
)
def test_small_objects_are_enlarged_as_much_as_published_trainings_enlarge_coco(task, height, width, smallest, side):
    """Objects have 48 pixels, but images are not enlarged by more than 800 / 480, nor beyond 800 x 1,333 pixels."""
    data = summary(height=height, width=width, sides=np.full(50, smallest))
    chosen, _ = choose(start(task, steps=1000), data)
    assert chosen.size == side


def test_the_smallest_size_of_a_classifier_does_not_depend_on_a_few_pixels():
    sides = {choose(start("classification", minutes=0.01), summary(height=side, width=side), speed=1e4)[0].size
             for side in (112, 120, 128)}  # fmt: skip
    assert sides == {64}


def test_a_semantic_network_starts_with_the_prior_and_small_ones_without_dropout():
    small, _ = choose(start("semantic", steps=1000))
    large, _ = choose(replace(start("semantic", steps=1000), weights="published", model="twins_svt_small"))
    assert small.semantic.prior_bias
    assert large.semantic.prior_bias
    assert (small.drop_rate, large.drop_rate) == (0.0, None)
    assert small.class_weights == large.class_weights == "none"
