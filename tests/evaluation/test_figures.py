import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.image import imread
from matplotlib.text import Text

from data.cohort import LEADS
from data.conditions import Condition, ConditionSchema
from evaluation.figures import ecg as figures
from evaluation.figures.ecg import (
    plot_ecg,
    plot_error_by_lead,
    plot_history,
    plot_latent,
    plot_noise,
    plot_reconstructions,
    plot_sweep,
    plot_traversal,
    save,
)

rng = np.random.default_rng(2)
SCALE = "50 mm/s, 10 mm/mV, pulse 1 mV"
BEATS = rng.normal(0, 0.2, size=(3, 12, 400)).astype(np.float32)


def traces(axes, lead):
    return [line for line in axes.lines if line.get_gid() == lead]


def place_of(axes, lead):
    """Left end of the trace, and the height of its baseline, in mm."""
    (line,) = traces(axes, lead)
    return line.get_xdata()[0], line.get_ydata()[0]


def test_a_millivolt_and_a_second_have_their_size_on_paper_in_the_saved_picture():
    step = np.zeros((12, 400), np.float32)
    step[:, 200:] = 1.0
    figure = plot_ecg(step)
    figure.canvas.draw()
    paper = figure.axes[0]
    (line,) = traces(paper, "V5")
    pixels = paper.transData.transform(line.get_xydata())
    mm = figure.dpi / 25.4
    assert np.ptp(pixels[:, 1]) / mm == pytest.approx(10, rel=1e-6)  # 10 mm/mV
    assert (pixels[200, 0] - pixels[0, 0]) / mm == pytest.approx(20, rel=1e-6)  # 0.4 s at 50 mm/s


def test_speed_and_gain_can_be_chosen_and_stand_on_the_figure():
    figure = plot_ecg(np.eye(12, 400, dtype=np.float32), speed=25, gain=20)
    (line,) = traces(figure.axes[0], "I")
    assert line.get_xdata()[250] - line.get_xdata()[0] == pytest.approx(12.5)
    assert np.ptp(line.get_ydata()) == pytest.approx(20)
    written = [text.get_text() for text in figure.axes[0].texts]
    assert any("25 mm/s, 20 mm/mV" in text for text in written)


def test_each_row_has_a_calibration_pulse_of_one_millivolt():
    pulses = traces(plot_ecg(BEATS[0]).axes[0], "calibration")
    assert len(pulses) == 3
    assert [np.ptp(pulse.get_ydata()) for pulse in pulses] == pytest.approx([10, 10, 10])


def test_grid_has_a_fine_line_per_millimetre_and_a_bold_one_per_five():
    paper = plot_ecg(BEATS[0]).axes[0]
    for collection, step in zip(paper.collections, (1, 1, 5, 5), strict=True):
        starts = np.array([segment[0] for segment in collection.get_segments()])
        assert np.diff(starts, axis=0).max() == pytest.approx(step)


def test_the_twelve_leads_stand_in_the_standard_order():
    paper = plot_ecg(np.zeros((12, 400), np.float32)).axes[0]
    order = sorted(LEADS, key=lambda lead: (-place_of(paper, lead)[1], place_of(paper, lead)[0]))
    assert order == "I aVR V1 V4 II aVL V2 V5 III aVF V3 V6".split()


def test_names_stand_at_the_start_of_their_own_trace():
    paper = plot_ecg(np.zeros((12, 400), np.float32)).axes[0]
    names = {text.get_text(): text.get_position() for text in paper.texts}
    for lead in LEADS:
        left, baseline = place_of(paper, lead)
        assert names[lead] == pytest.approx((left - 2, baseline + 6))


def test_tall_beats_get_rows_that_do_not_run_into_each_other():
    tall = np.zeros((12, 400), np.float32)
    tall[LEADS.index("V1"), 150] = -7.5
    tall[LEADS.index("V2"), 150] = 6.5
    paper = plot_ecg(tall).axes[0]
    (above,), (below,) = traces(paper, "V1"), traces(paper, "V2")
    assert above.get_ydata().min() > below.get_ydata().max()
    assert paper.get_ylim()[0] <= paper.dataLim.y0
    tall[LEADS.index("I"), 150] = 8.0  # real ones reach 6.8 mV: none is cut off
    paper = plot_ecg(tall).axes[0]
    assert paper.get_ylim()[1] >= paper.dataLim.y1


def test_not_a_number_and_absurd_amplitudes_still_give_a_figure_of_bounded_size(tmp_path):
    broken = np.zeros((12, 400), np.float32)
    broken[3] = np.nan
    broken[5] = 1e6
    figure = plot_ecg(broken)
    save(figure, tmp_path / "broken.png")
    assert figure.get_figheight() < 16


@pytest.mark.parametrize("leads", [("I", "II", "V1", "V2", "V3", "V4", "V5", "V6"), ("II",)])
def test_other_sets_of_leads_are_drawn_too(leads):
    paper = plot_ecg(BEATS[0, : len(leads), :300], leads=leads).axes[0]
    assert [len(traces(paper, lead)) for lead in leads] == [1] * len(leads)


def test_overlaid_beats_have_a_colour_and_a_legend_entry_each():
    paper = plot_ecg(BEATS, ["a", "b", "c"], "Three beats").axes[0]
    lines = traces(paper, "II")
    colors = [to_hex(line.get_color()) for line in lines]
    keys = {line.get_label(): to_hex(line.get_color()) for line in paper.get_legend().get_lines()}
    assert len(set(colors)) == 3
    assert keys == dict(zip("abc", colors, strict=True))
    assert paper.get_title(loc="left") == "Three beats"


@pytest.mark.parametrize("title", ["", "Generated beat by rhythm: 1313 uV apart at most, in III"])
@pytest.mark.parametrize("more", [0, 20, 60])
def test_a_long_legend_covers_neither_the_title_nor_the_scale(title, more):
    labels = ("sinus rhythm", "atrial fibrillation", "second degree AV block" + more * "x")
    figure = plot_ecg(BEATS, labels, title)
    figure.draw_without_rendering()
    [paper] = figure.axes
    legend = paper.get_legend().get_window_extent()
    written = [one for one in paper.findobj(Text) if one.get_text() in (title, SCALE)]
    assert {one.get_text() for one in written} == {title, SCALE}
    places = [one.get_window_extent() for one in written if one.get_text()]
    assert not any(legend.overlaps(place) for place in places)
    assert figure.bbox.x0 <= legend.x0 < legend.x1 <= figure.bbox.x1
    assert figure.bbox.y0 <= legend.y0


def test_beats_of_the_wrong_shape_are_named():
    with pytest.raises(ValueError, match=r"Expected beats of shape \(M, 12, T\)"):
        plot_ecg(BEATS[0].T)


def test_real_beats_are_black_and_lie_under_the_reconstructed_ones():
    figure = plot_reconstructions(BEATS, BEATS + 0.1, ["one", "two", "three"])
    assert len(figure.axes) == 3
    for number, paper in enumerate(figure.axes):
        real, made = traces(paper, "V2")
        assert to_hex(real.get_color()) == "#000000"
        assert made.get_ydata() - real.get_ydata() == pytest.approx(1, abs=1e-4)  # 0.1 mV
        assert real.get_linewidth() > made.get_linewidth()
        assert paper.get_title(loc="left") == ["one", "two", "three"][number]


def test_a_sweep_colours_beats_by_value_and_labels_the_scale():
    figure = plot_sweep(BEATS, [70, 30, 50], "age", "years")
    paper, scale = figure.axes
    assert [label.get_text() for label in scale.get_xticklabels()] == ["30", "50", "70"]
    assert [text.get_text() for text in scale.texts] == ["age (years)"]
    lines = traces(paper, "V3")
    first = lines[0].get_ydata() - lines[1].get_ydata()
    assert first == pytest.approx(10 * (BEATS[1] - BEATS[2])[LEADS.index("V3")], abs=1e-4)
    brightness = [sum(line.get_color()[:3]) for line in lines]
    assert brightness == sorted(brightness)  # the larger value the brighter


def test_a_sweep_over_categories_has_a_legend():
    paper = plot_sweep(BEATS[:2], ["female", "male"], "sex").axes[0]
    assert [text.get_text() for text in paper.get_legend().get_texts()] == ["female", "male"]


class Decoder:
    """Lead II is z0 mV high, V1 is 2 z2 mV, V5 is the scaled age."""

    schema = ConditionSchema([Condition("age")], scaling={"age": (50, 10)})

    def decode(self, z, conditions):
        ecg = np.zeros((len(z), 12, 400), np.float32)
        ecg[:, LEADS.index("II")] = z[:, :1]
        ecg[:, LEADS.index("V1")] = 2 * z[:, 2:]
        ecg[:, LEADS.index("V5")] = conditions[:, :1]
        return ecg


def test_a_traversal_moves_one_dimension_by_its_own_spread_the_most_informative_first():
    mean = rng.normal([0.3, 0, 0], [0.5, 0, 2.0], size=(500, 3))
    paper = plot_traversal(Decoder(), mean, np.zeros((500, 3)), {"age": 70}, dims=2).axes[0]
    rows = [text.get_text() for text in paper.texts if text.get_text().endswith(" II")]
    assert rows == ["z2 II", "z0 II"]
    heights = [line.get_ydata()[0] for line in traces(paper, "z0 II")]
    assert np.diff(heights) == pytest.approx(10 * mean[:, 0].std(), rel=1e-4)
    still = [line.get_ydata()[0] for line in traces(paper, "z2 II")]
    assert np.ptp(still) == pytest.approx(0)
    told = [line.get_ydata()[0] for line in traces(paper, "z0 V5")]
    pulse = traces(paper, "calibration")[1].get_ydata()
    assert np.array(told) - pulse.min() == pytest.approx(20)  # (70 - 50) / 10 mV


def test_history_draws_training_beside_validation_and_fits_the_axis_to_the_settled_part():
    loss = np.r_[1e6, np.linspace(50, 10, 29)]
    table = pd.DataFrame({"epoch": range(1, 31), "loss": loss, "val_loss": loss + 1, "beta": 1.0})
    figure = plot_history(table)
    first, second = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["loss", "beta"]
    np.testing.assert_allclose(first.lines[1].get_ydata(), loss + 1)
    assert [line.get_label() for line in first.lines] == ["training", "validation"]
    assert first.get_ylim()[1] < 60
    assert len(second.lines) == 1


@pytest.mark.parametrize(
    "table",
    [
        pd.DataFrame({"epoch": [1], "loss": [3.0], "val_loss": [np.nan]}),
        pd.DataFrame({"loss": [np.inf, 2.0]}),
        pd.DataFrame({"epoch": []}),
    ],
)
def test_a_history_of_one_epoch_or_with_gaps_can_be_drawn(table, tmp_path):
    save(plot_history(table), tmp_path / "history.png")


def test_latent_bars_fall_and_the_unused_ones_are_grey():
    axes = plot_latent([0.0, 2.0, 0.05, 1.0]).axes[0]
    assert [bar.get_height() for bar in axes.patches] == [2.0, 1.0, 0.05, 0.0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["z1", "z3", "z2", "z0"]
    grey = [to_hex(bar.get_facecolor()) == figures.GREY.lower() for bar in axes.patches]
    assert grey == [False, False, True, True]
    assert axes.get_title(loc="left").startswith("2 of 4")


def test_the_noise_stands_under_the_mean_beat_in_microvolts():
    mean_beat = np.sin(np.linspace(0, 6, 50)) * np.array([[1.0], [2.0], [0.5]])
    sd = np.full((3, 50), 0.02)
    sd[1, 10] = 0.08
    figure = plot_noise(mean_beat, sd, ("I", "II", "V1"), 500)
    panels = [axes for axes in figure.axes if axes.lines]
    assert [axes.get_title(loc="left") for axes in panels] == ["I", "II", "V1"]
    np.testing.assert_allclose(panels[1].lines[0].get_ydata(), mean_beat[1])
    assert panels[0].lines[0].get_xdata()[-1] == pytest.approx(98)  # ms
    below = [axes for axes in figure.axes if axes not in panels and axes.collections]
    heights = [axes.collections[0].get_paths()[0].vertices[:, 1].max() for axes in below]
    np.testing.assert_allclose(heights, [20, 80, 20])  # uV
    assert below[0].get_ylim() == below[1].get_ylim()


def test_error_by_lead_shows_model_and_baselines_with_their_intervals():
    metrics = {}
    for number, prefix in enumerate(("", "pca10_", "mean_beat_")):
        for part in ("", "_V1", "_V2", "_p", "_qrs"):
            middle = 10.0 * (number + 1) + len(part)
            metrics |= {f"{prefix}mae_uv{part}": middle}
            metrics |= {f"{prefix}mae_uv{part}_low": middle - 1}
            metrics |= {f"{prefix}mae_uv{part}_high": middle + 3}
    figure = plot_error_by_lead(metrics, leads=("V1", "V2"))
    by_lead, by_segment = figure.axes
    names = [text.get_text() for text in by_lead.get_legend().get_texts()]
    assert names == ["model", "PCA-10", "mean beat"]
    assert [label.get_text() for label in by_segment.get_xticklabels()] == ["P", "QRS"]
    points, _, (bars,) = by_lead.containers[1]
    np.testing.assert_allclose(points.get_ydata(), [23, 23])
    np.testing.assert_allclose(bars.get_segments()[0][:, 1], [22, 26])


def test_saved_pictures_are_readable_about_a_thousand_pixels_wide_and_small(tmp_path):
    path = tmp_path / "ecg.png"
    save(plot_reconstructions(BEATS[:2], BEATS[:2]), path)
    height, width, _ = imread(path).shape
    assert 950 < width < 1100
    assert height > 500
    assert path.stat().st_size < 500_000
    assert [file.name for file in tmp_path.iterdir()] == ["ecg.png"]


def test_the_same_figure_gives_the_same_bytes(tmp_path):
    for name in ("a.png", "b.png"):
        save(plot_ecg(BEATS[0]), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
