import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text

from data.cohort import LEADS
from data.conditions import Condition, ConditionSchema
from evaluation.figures.ecg import BLUE, VERMILION, save
from evaluation.figures.generator import (
    plot_beside_real,
    plot_conditions,
    plot_slopes,
    plot_specificity,
)

SCHEMA = ConditionSchema(
    [
        Condition("age", unit="years"),
        Condition("sex", "binary", categories=("male", "female")),
    ]
)


def traces(axes, lead):
    return [line for line in axes.lines if line.get_gid() == lead]


def subjects(ages, sexes):
    return pd.DataFrame({"age": ages, "sex": sexes})


PARTS = {
    "training": subjects([20, 30, 40, 60, np.nan], ["male", "female", "female", "female", None]),
    "test": subjects([30, 30], ["male", "male"]),
}


def test_histograms_hold_the_shares_of_what_is_known_over_the_same_bins():
    figure = plot_conditions(SCHEMA, PARTS)
    age = figure.axes[0]
    filled, line = age.patches
    assert filled.get_xy()[:, 0].min() == line.get_xy()[:, 0].min() == 20
    assert filled.get_xy()[:, 1].max() == pytest.approx(25)
    assert line.get_xy()[:, 1].max() == pytest.approx(100)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["training", "test"]


def test_categories_are_bars_and_missing_values_are_counted():
    age, sex = plot_conditions(SCHEMA, PARTS).axes
    assert [bar.get_height() for bar in sex.patches] == [25, 75, 100, 0]
    assert [label.get_text() for label in sex.get_xticklabels()] == ["male", "female"]
    assert "unknown: 1 of 5 in training\n0 of 2 in test" in sex.get_xlabel()
    assert age.get_xlabel().startswith("years")
    assert "unknown: 1 of 5 in training" in age.get_xlabel()


def test_long_names_stand_beside_each_other():
    names = [f"left_ventricular_ejection_fraction_at_visit_{number}" for number in range(3)]
    table = pd.DataFrame({name: [20.0, 30.0] for name in names})
    schema = ConditionSchema([Condition(name) for name in names])
    figure = plot_conditions(schema, {"training": table, "test": table})
    figure.draw_without_rendering()
    titles = [one for one in figure.findobj(Text) if one.get_text() in names]
    places = [one.get_window_extent() for one in titles]
    assert [one.get_text() for one in titles] == names
    assert all(one.x1 < other.x0 for one, other in zip(places, places[1:], strict=False))


def test_a_split_where_a_condition_is_never_known_can_be_drawn(tmp_path):
    empty = subjects([np.nan], [None])
    for parts in (PARTS | {"test": empty}, {"training": empty, "test": empty}):
        save(plot_conditions(SCHEMA, parts), tmp_path / "conditions.png")


def test_a_generated_ecg_stands_left_of_its_real_one_on_the_same_paper():
    rng = np.random.default_rng(0)
    generated = rng.normal(0, 0.1, (2, 12, 400)).astype(np.float32)
    real = 5 * generated
    figure = plot_beside_real(generated, real, [("a", "b"), ("c", "d")])
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["a", "b", "c", "d"]
    for number in range(2):
        left, right = figure.axes[2 * number : 2 * number + 2]
        ((made,), (true,)) = traces(left, "V2"), traces(right, "V2")
        signal = generated[number, LEADS.index("V2")]
        assert np.ptp(made.get_ydata()) == pytest.approx(10 * np.ptp(signal), rel=1e-4)
        baselines = [line.get_ydata()[0] for line in (made, true)]
        offsets = 10 * signal[0], 50 * signal[0]
        assert baselines[0] - offsets[0] == pytest.approx(baselines[1] - offsets[1], abs=1e-3)
        assert (to_hex(made.get_color()), to_hex(true.get_color())) == (
            VERMILION.lower(),
            "#000000",
        )
        assert made.get_xdata()[250] - made.get_xdata()[0] == pytest.approx(12.5)  # 25 mm/s
        boxes = [axes.get_position() for axes in (left, right)]
        assert 0 < boxes[0].x0 < boxes[0].x1 < boxes[1].x0 < boxes[1].x1 < 1
        assert 0 < boxes[0].y0 < boxes[0].y1 < 1
        assert boxes[0].y0 == pytest.approx(boxes[1].y0)
    assert figure.axes[0].get_position().y0 > figure.axes[2].get_position().y1


def test_a_millimetre_of_both_sheets_is_a_millimetre_of_the_figure():
    ecg = np.zeros((1, 12, 400), np.float32)
    figure = plot_beside_real(ecg, ecg, [("", "")])
    figure.canvas.draw()
    for axes in figure.axes:
        ends = axes.transData.transform([(0, 0), (10, 10)])
        assert np.diff(ends, axis=0)[0] == pytest.approx(figure.dpi / 2.54)


def test_long_titles_take_two_lines_at_most():
    ecg = np.zeros((1, 12, 400), np.float32)
    long = "Generated: " + ", ".join(f"condition_{n} {n} units" for n in range(20))
    title = plot_beside_real(ecg, ecg, [(long, "short")]).axes[0].get_title(loc="left")
    assert title.count("\n") == 1
    assert title.endswith("...")


def pair(condition, feature, generated, real, difference, unit=1.0):
    """Metrics of one slope, intervals 0.2 wide; `unit` is SD of the feature per slope."""
    key = f"slope_{condition}_{feature}"
    values = {key: generated, f"{key}_real": real, f"{key}_difference": difference}
    metrics = {f"specificity_{condition}_{feature}": 0.5}
    for name, value in values.items():
        metrics |= {name: value, f"{name}_low": value - 0.1, f"{name}_high": value + 0.1}
    for end, shift in (("", 0), ("_low", -0.1), ("_high", 0.1)):
        metrics[f"specificity_{condition}_{feature}_real{end}"] = unit * (real + shift)
    return metrics


ADHERENCE = {
    **pair("age", "qrs_axis", 0.2, 0.9, -0.7, unit=2.0),
    **pair("age", "r_v5", 0.5, 0.55, -0.05),
    **pair("lv_mass", "t_v2", -0.3, -0.3, 0.0),
}


def test_slopes_are_drawn_in_sd_of_the_feature_and_the_lost_ones_are_named():
    age, mass = plot_slopes(ADHERENCE).axes
    places = {
        (round(bars[0].get_xdata()[0], 6), round(bars[0].get_ydata()[0], 6)): to_hex(
            bars[0].get_color()
        )
        for bars in age.containers
    }
    assert places == {(1.8, 0.4): VERMILION.lower(), (0.55, 0.5): BLUE.lower()}
    assert [text.get_text() for text in age.texts] == ["QRS axis"]
    assert age.get_title(loc="left") == "age: 1 of 2 recovered"
    assert mass.get_title(loc="left") == "lv_mass: 1 of 1 recovered"
    _, _, (across, up) = age.containers[0]
    np.testing.assert_allclose(across.get_segments()[0][:, 0], [1.6, 2.0])
    np.testing.assert_allclose(up.get_segments()[0][:, 1], [0.2, 0.6])


@pytest.mark.parametrize(("generated", "real"), [(0.9, 0.1), (0.1, 0.9)])
def test_names_of_lost_slopes_do_not_cover_each_other_nor_leave_the_panel(generated, real):
    names = ("qrs_axis", "t_axis", "r_i", "r_avf", "r_v5", "s_v2", "t_v2", "t_v5", "cornell")
    metrics = {}
    for number, name in enumerate(names):
        metrics |= pair("age", name, generated + 0.001 * number, real, 0.8)
    axes = plot_slopes(metrics).axes[0]
    heights = sorted(text.xyann[1] for text in axes.texts)
    assert len(heights) == 9
    assert np.diff(heights).min() > 0.05
    assert heights[0] > 0
    assert heights[-1] <= 1


def test_a_condition_that_the_test_split_does_not_know_has_no_panel():
    train_only = {"slope_bmi_r_v5_train": 0.1, "specificity_bmi_r_v5": 0.2}
    assert len(plot_slopes(ADHERENCE | train_only).axes) == 2
    assert plot_slopes({}) is None
    assert plot_slopes(train_only) is None


def test_changes_stand_beside_what_is_asked_for():
    metrics = ADHERENCE | {"specificity_bmi_r_v5": 0.2, "specificity_gain": 0.9}
    axes = plot_specificity(metrics).axes[0]
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == [
        *("age\ngenerated", "age\nasked for", "lv_mass\ngenerated", "lv_mass\nasked for"),
        "bmi\ngenerated",
    ]
    rows = [label.get_text() for label in axes.get_yticklabels()]
    assert rows == ["QRS axis", "R in V5", "T in V2"]
    values = axes.images[0].get_array()
    np.testing.assert_allclose(values[0, :2], [0.5, 1.8])
    assert np.ma.getmaskarray(values)[0, 2]
    shown = {text.get_text() for text in axes.texts}
    assert {"+0.50", "+1.80", "-0.30", "+0.20"} <= shown
    assert plot_specificity({"specificity_gain": 1.0}) is None


@pytest.mark.parametrize(
    "names",
    [
        ("age", "sex", "heart_angle_frontal", "heart_angle_transverse"),
        ("age", "sex", "lvef_lte_45", "lvwt_gte_13", "pasp_gte_45", "tr_max_gte_32"),
    ],
)
def test_names_of_conditions_do_not_cover_each_other(names):
    metrics = {}
    for name in names:
        metrics |= pair(name, "qrs_axis", 0.2, 0.9, -0.7)
    figure = plot_specificity(metrics)
    figure.draw_without_rendering()
    places = [label.get_window_extent() for label in figure.axes[0].get_xticklabels()]
    assert all(one.x1 < other.x0 for one, other in zip(places, places[1:], strict=False))
    assert max(place.y1 for place in places) < figure.bbox.y1
