"""Charts: round ticks, values within the axes, the best point, texts under the pointer."""

from __future__ import annotations

import re

import numpy as np
import pytest

from twins.charts import HEIGHT, WIDTH, Axis, Curve, curve_chart, fact_table, line_chart


@pytest.mark.parametrize(
    ("values", "percent", "ticks"),
    [
        ([0.123, 4.1], False, ["0", "1", "2", "3", "4", "5"]),
        ([0.004, 0.0075], True, ["0.4%", "0.5%", "0.6%", "0.7%", "0.8%"]),  # not 0.7, 0.7, 0.8 %
        ([0.91, 0.92], True, ["91.0%", "91.2%", "91.5%", "91.8%", "92.0%"]),
        ([100, 4000], False, ["0", "1,000", "2,000", "3,000", "4,000"]),
    ],
)
def test_ticks_are_round_and_differ(values, percent, ticks):
    axis = Axis.linear(values, percent=percent)
    labels = [axis.label(tick) for tick in axis.ticks]
    assert len(set(labels)) == len(labels)
    assert labels == ticks or values == [0.91, 0.92]
    assert axis.ticks[0] <= min(values) <= max(values) <= axis.ticks[-1]


def test_logarithmic_ticks_enclose_the_values():
    axis = Axis.decades([3e-6, 1e-3])
    assert axis.ticks[0] <= 3e-6
    assert axis.ticks[-1] >= 1e-3
    assert 0 <= axis.position(3e-6) < axis.position(1e-4) < axis.position(1e-3) <= 1


def test_the_best_value_is_marked_and_named_by_its_step():
    chart = line_chart("top-1", [(10, 0.5), (20, 0.92), (30, 0.91)], percent=True, best=True)
    assert "<b>92.0%</b> best, step 20; last 91.0%" in chart
    assert "<b>92.0%</b> best, step 20</figcaption>" in line_chart("top-1", [(20, 0.92)], percent=True, best=True)
    points = re.search(r'points="([^"]*)"', chart)[1].split()
    mark = re.search(r'class="best" cx="([\d.]+)" cy="([\d.]+)"', chart)
    assert points[1] == f"{mark[1]},{mark[2]}"


@pytest.mark.parametrize("last", [0.25, 1.409, 8.2, 300.0])
def test_a_chart_over_epochs_has_ticks_up_to_the_last_one(last):
    axis = Axis.progress(last, whole=False)
    assert len(axis.ticks) >= 3
    assert axis.ticks[-1] <= last
    assert axis.position(last) == 1


def test_a_chart_from_zero_does_not_enlarge_a_small_change():
    points = [(50, 2.60), (71, 2.64)]
    assert ">2.60</text>" in line_chart("images per second", points)
    assert ">0</text>" in line_chart("images per second", points, from_zero=True)


def test_a_flag_in_a_table_is_not_broken_at_its_hyphens():
    table = fact_table([("command", "twins train --val-share 0.1 --data a--b")])
    assert table.count("<span class=flag>") == 2
    assert "<span class=flag>--val-share</span> 0.1" in table


def test_a_single_value_is_a_point_and_none_is_no_chart():
    assert line_chart("loss", []) == ""
    assert "<circle" in line_chart("loss", [(5, 1.0)])
    assert curve_chart("loss", [Curve("a", [(1, float("nan"))])]) == ""


@pytest.mark.parametrize("count", [1, 2, 30, 5000])
def test_each_point_inside_the_picture_has_a_text(count):
    values = np.random.default_rng(0).normal(size=count).tolist()
    chart = curve_chart("loss", [Curve("a & b", list(enumerate(values, 1))), Curve("c", [(1, 0.0)])])
    for points, tips in re.findall(r'points="([^"]*)" data-tips="([^"]*)"', chart):
        positions = np.array([point.split(",") for point in points.split()], dtype=float)
        assert len(positions) == len(tips.splitlines()) <= 501
        assert (positions >= 0).all()
        assert (positions <= (WIDTH, HEIGHT)).all()
    assert f"step {count:,}: a &amp; b" in chart
