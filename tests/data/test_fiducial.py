"""Where the QRS is said to lie and where it lies, against beats whose middle is known."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.signal import resample

from config import ConfigError, DataConfig
from data import Cohort, CohortError, load_cohort
from data.cohort import QRS_SAMPLE
from data.fiducial import check_qrs, locate_qrs
from data.readers.arrays import load_arrays
from data.synthetic import simulate
from evaluation.external import fitting
from evaluation.measures.features import measure
from tests.cardiosoft_files import document, stored_beat, waveforms, write
from tests.simulated_strips import beat, rhythm_strip

SIMULATED = simulate(60, seed=3)


def gaussian_beats(samples, rate, middle, n=12):
    """(n, 12, samples) mV of sums of Gaussians: the middle of the QRS is known to the sample."""
    time = (np.arange(samples) - middle) / rate
    gains = np.linspace(0.7, 1.3, n)[:, None, None]
    return (gains * beat(time)).astype(np.float32)


def folder(path, ecg):
    np.save(path / "ecg.npy", ecg)
    table = pd.DataFrame({"subject_id": np.arange(len(ecg)), "age": 50.0})
    table.to_csv(path / "subjects.csv", index=False)
    return path


@pytest.mark.parametrize(("rate", "middle"), [(500, 150), (500, 300), (250, 75), (1000, 333)])
def test_the_qrs_is_found_at_any_rate_and_place(rate, middle):
    found, width = locate_qrs(gaussian_beats(2 * middle + 200, rate, middle), rate)
    assert np.abs(found - middle).max() * 1000 / rate < 6
    assert (width > 60).all()
    assert (width < 130).all()


@pytest.mark.parametrize("shift", [-100, -50, 50, 100])
def test_arrays_whose_qrs_lies_elsewhere_are_refused_with_where_it_lies(tmp_path, shift):
    ecg = np.roll(gaussian_beats(400, 500, 150), shift, axis=2)
    with pytest.raises(CohortError, match=r"middle of the QRS on sample 150 .*Found: on") as error:
        load_arrays(folder(tmp_path, ecg))
    said = int(str(error.value).partition("Found: on sample ")[2].partition(",")[0])
    assert abs(said - (150 + shift)) <= 4
    assert "--data.qrs_sample" in str(error.value)


def test_arrays_of_another_rate_are_refused_with_the_likely_one(tmp_path):
    ecg = gaussian_beats(200, 250, 75)
    with pytest.raises(CohortError, match="sample 7[56], .* as it would be at 250 Hz"):
        load_arrays(folder(tmp_path, ecg))


@pytest.mark.parametrize("rate", [240, 1000, 1250])
def test_a_rate_that_makes_the_qrs_too_narrow_or_wide_is_refused(tmp_path, rate):
    ecg = gaussian_beats(400, rate, 150)
    with pytest.raises(CohortError, match="QRS complexes of 55 to 165 ms .*sampling rate another"):
        load_arrays(folder(tmp_path, ecg))


def test_rhythm_strips_are_refused_as_such(tmp_path):
    strips = np.stack([rhythm_strip(seconds=2, seed=seed, noise=0.01) for seed in range(12)])
    with pytest.raises(CohortError, match="not aligned.*median_beat"):
        load_arrays(folder(tmp_path, strips.astype(np.float32)))


def test_longer_beats_are_refused_until_it_is_said_where_to_cut(tmp_path):
    long = gaussian_beats(600, 500, 150)
    with pytest.raises(CohortError, match=r"Expected 400 samples.*Received: 600 samples"):
        load_arrays(folder(tmp_path, long))
    np.testing.assert_array_equal(load_arrays(tmp_path, qrs_sample=150).ecg, long[:, :, :400])


@pytest.mark.parametrize(
    ("samples", "rate", "middle"), [(600, 500, 250), (600, 500, 300), (1200, 1000, 500)]
)
def test_arrays_are_cut_to_the_window_when_it_is_said_where(tmp_path, samples, rate, middle):
    folder(tmp_path, gaussian_beats(samples, rate, middle))
    settings = DataConfig(
        source="arrays", path=tmp_path, sampling_rate=rate, qrs_sample=middle, conditions=("age",)
    )
    cohort = load_cohort(settings)
    assert cohort.ecg.shape == (12, 12, 400)
    assert cohort.timing == {"sampling_rate": 500.0, "qrs_sample": QRS_SAMPLE}
    np.testing.assert_allclose(cohort.ecg, gaussian_beats(400, 500, 150), atol=0.01)
    if rate == 500:
        assert isinstance(cohort.ecg, np.memmap)  # not read into memory to be cut


def test_what_is_said_must_be_true_as_well(tmp_path):
    folder(tmp_path, gaussian_beats(600, 500, 300))
    with pytest.raises(CohortError, match="QRS on sample 250.*Found: on sample 30"):
        load_arrays(tmp_path, qrs_sample=250)


def test_a_shorter_window_is_kept_with_its_qrs(tmp_path, capsys):
    """400 samples centred on the QRS, as many programs write them."""
    cohort = load_arrays(folder(tmp_path, gaussian_beats(400, 500, 200)), qrs_sample=200)
    assert cohort.ecg.shape == (12, 12, 350)
    assert cohort.qrs_sample == 150
    assert "350 of the usual 400 samples" in capsys.readouterr().out
    cohort = load_arrays(folder(tmp_path, gaussian_beats(400, 500, 120)), qrs_sample=120)
    assert cohort.ecg.shape == (12, 12, 370)
    assert cohort.qrs_sample == 120
    with pytest.raises(CohortError, match="Received: 120 and 680 ms"):
        load_arrays(folder(tmp_path, gaussian_beats(400, 500, 60)), qrs_sample=60)


def test_rate_and_qrs_are_kept_with_a_prepared_cohort(tmp_path):
    ecg = gaussian_beats(200, 250, 90)
    subjects = pd.DataFrame({"subject_id": np.arange(12)})
    Cohort(ecg, subjects, sampling_rate=250.0, qrs_sample=90).save(tmp_path)
    settings = DataConfig(source="prepared", path=tmp_path)
    assert load_cohort(settings).timing == {"sampling_rate": 250.0, "qrs_sample": 90}
    assert load_cohort(settings).take([1, 2]).qrs_sample == 90
    # Before it was kept, it was 300 ms from the first sample.
    description = json.loads((tmp_path / "cohort.json").read_text())
    del description["qrs_sample"]
    (tmp_path / "cohort.json").write_text(json.dumps(description))
    assert Cohort.open(tmp_path).qrs_sample == 75
    with pytest.raises(CohortError, match=r"sample 75 .*sample 9[01].*qrs_sample=\.\.\."):
        load_cohort(settings)


@pytest.mark.parametrize("sample", [-1, 1.5, "150"])
def test_a_fiducial_that_is_no_sample_is_refused(sample):
    with pytest.raises(CohortError, match="sample number as qrs_sample"):
        Cohort(SIMULATED.ecg, SIMULATED.subjects, qrs_sample=sample)


def test_few_odd_beats_do_not_matter_but_most_do():
    ecg = SIMULATED.ecg.copy()
    ecg[:20] = np.roll(ecg[:20], 60, axis=2)
    check_qrs(Cohort(ecg, SIMULATED.subjects), "")
    ecg[20:40] = np.roll(ecg[20:40], 60, axis=2)
    with pytest.raises(CohortError, match="middle of the QRS"):
        check_qrs(Cohort(ecg, SIMULATED.subjects), "")


@pytest.mark.parametrize("rate", [250, 1000])
def test_waves_are_measured_alike_at_any_rate_that_is_known(rate):
    other = resample(SIMULATED.ecg, 400 * rate // 500, axis=2).astype(np.float32)
    cohort = Cohort(other, SIMULATED.subjects, sampling_rate=float(rate))
    expected = measure(SIMULATED.ecg)[["qrs_duration", "qt_interval"]].median()
    found = measure(cohort.ecg, **cohort.timing)[["qrs_duration", "qt_interval"]].median()
    np.testing.assert_allclose(found, expected, atol=4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "ptbxl", "sampling_rate": 250.0}, "data.sampling_rate: expected .*100 or 500"),
        ({"source": "code15", "sampling_rate": 400.0}, "data.sampling_rate"),
        ({"source": "arrays", "sampling_rate": 49.0}, "data.sampling_rate"),
        ({"source": "arrays", "sampling_rate": 10_001.0}, "data.sampling_rate"),
        ({"source": "ptbxl", "qrs_sample": 150}, "data.qrs_sample: .* of arrays only"),
        ({"source": "arrays", "qrs_sample": -1}, "data.qrs_sample"),
    ],
)
def test_a_rate_or_a_place_that_no_reader_takes_is_refused(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        DataConfig(path=tmp_path, **settings)


@pytest.mark.parametrize("off", [0, 60])
def test_a_recorder_that_says_another_place_than_its_beats_is_noticed(tmp_path, off):
    """UK Biobank's median beats are cut where the recorder says that the QRS begins and ends."""
    for eid in (1000011, 1000022, 1000033):
        text = document(waveforms(stored_beat()), qrs=(432 + off, 524 + off))
        write(tmp_path / f"{eid}_20205_2_0.xml", text)
    (tmp_path / "subjects.csv").write_text("eid,age\n1000011,50\n1000022,60\n1000033,70\n")
    settings = DataConfig(
        source="ukbiobank", path=tmp_path, cache=tmp_path / "cache", conditions=("age",), workers=1
    )
    if off:
        with pytest.raises(CohortError, match="Found: on sample 12.*QOnset.*--data.beats strip"):
            load_cohort(settings)
    else:
        assert len(load_cohort(settings)) == 3


def test_a_cohort_of_another_alignment_does_not_fit_a_model():
    model = SimpleNamespace(
        leads=SIMULATED.leads,
        timing=SIMULATED.timing,
        unit="mV",
        ecg_shape=(12, 400),
        schema=None,
    )
    fitting(model, SIMULATED)
    moved = Cohort(np.roll(SIMULATED.ecg, -30, axis=2), SIMULATED.subjects, qrs_sample=120)
    with pytest.raises(CohortError, match="Expected sample of the QRS 150, received 120"):
        fitting(model, moved)
