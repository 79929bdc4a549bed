import tracemalloc

import numpy as np
import pytest
from scipy.ndimage import shift

from data.beats import BeatError, median_beat
from data.cohort import LEADS, QRS_SAMPLE, SAMPLES, derive_leads, einthoven_residual
from data.leads import independent_leads
from data.readers import cardiosoft
from data.readers.cardiosoft import (
    MEASUREMENTS,
    read_measurements,
    read_median_beat,
    read_person,
    read_strip,
)
from tests.cardiosoft_files import (
    MEASURED,
    MIDDLE,
    document,
    element,
    samples_text,
    stored_beat,
    stored_strip,
    waveforms,
    write,
)
from tests.places import SHARED
from tests.simulated_strips import beat

REAL = SHARED / "ukb" / "example_20205.xml"
START = MIDDLE // 2 - QRS_SAMPLE  # of the window in the stored beat at 500 Hz


def expected(stored, resolution=5.0, start=START):
    """(12, 400) mV: the window of the independent leads as stored, the others derived."""
    window = stored[:, start : start + SAMPLES] * (resolution / 1000)
    return derive_leads(independent_leads(window)).astype(np.float32)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "1234567_20205_2_0.xml"


def refused(file, text, message, read=read_median_beat, **how):
    with pytest.raises(BeatError, match=message):
        read(write(file, text, **how))


# --- what is read -------------------------------------------------------------------------------


def test_the_stored_beat_is_cut_around_the_middle_of_its_qrs_and_not_changed(file):
    stored = stored_beat()
    found = read_median_beat(write(file, document(waveforms(stored))))
    assert found.ecg.shape == (12, 400)
    assert found.ecg.dtype == np.float32
    np.testing.assert_allclose(found.ecg, expected(stored), rtol=0, atol=1e-6)
    truth = beat((np.arange(400) - QRS_SAMPLE) / 500)  # its own middle is on the sample
    error = np.abs(found.ecg - truth)
    assert independent_leads(error).max() <= 0.0025 + 1e-6  # half a unit
    assert error.max() <= 0.005 + 1e-6  # of I and of II


def test_derived_leads_follow_exactly_though_the_stored_ones_are_rounded(file):
    stored = stored_beat()
    assert einthoven_residual(stored[None] * 0.005)[0] > 1e-3
    found = read_median_beat(write(file, document(waveforms(stored))))
    assert einthoven_residual(found.ecg[None])[0] < 1e-6


@pytest.mark.parametrize(
    ("qrs", "start"), [((430, 522), 88), ((432, 525), 89), ((432, 526), 90), ((433, 525), 90)]
)
def test_the_window_follows_the_stated_onset_and_offset_to_the_nearest_sample(file, qrs, start):
    stored = stored_beat()
    found = read_median_beat(write(file, document(waveforms(stored), qrs=qrs)))
    np.testing.assert_allclose(found.ecg, expected(stored, start=start), rtol=0, atol=1e-6)


def test_what_the_recorder_measured_comes_with_the_beat(file):
    write(file, document(waveforms(stored_beat())))
    found = read_median_beat(file)
    assert (found.beats_used, found.beats_found, found.heart_rate) == (9, 9, 65)
    assert np.isnan([found.correlation, found.noise_uv]).all()
    assert read_measurements(file) == {
        "ecg_age": 61,
        "ecg_ventricular_rate": 65,
        "ecg_p_duration": 106,
        "ecg_pq_interval": 174,
        "ecg_qrs_duration": 92,
        "ecg_qt_interval": 440,
        "ecg_qtc_interval": 401,
        "ecg_p_axis": 56,
        "ecg_r_axis": -12,
        "ecg_t_axis": 45,
    }


@pytest.mark.parametrize("value", [("ms", ""), ("s", 0.092), ("ms", "inf"), ("ms", "wide")])
def test_a_measurement_that_is_none_or_in_another_unit_is_missing(file, value):
    text = document(waveforms(stored_beat()), measured=MEASURED | {"QRSDuration": value}, age="")
    found = read_measurements(write(file, text))
    assert [name for name in found if np.isnan(found[name])] == ["ecg_age", "ecg_qrs_duration"]


@pytest.mark.parametrize(
    ("month", "day", "age"), [(3, 13, 61), (3, 14, 62), (2, 20, 61), (4, 1, 62)]
)
def test_where_no_age_is_given_it_is_that_since_the_last_birthday(file, month, day, age):
    def parts(**numbers):
        return "".join(element(name.capitalize(), value) for name, value in numbers.items())

    moment = parts(hour=9, minute=5, second=1, day=day, month=month, year=2019)
    born = element("BirthDateTime", parts(day=14, month=3, year=1957))
    inside = element("ObservationDateTime", moment) + element("PatientInfo", born)
    write(file, element("CardiologyXML", inside))
    assert read_person(file).age == age


def test_without_count_and_rate_the_beat_is_still_there(file):
    found = read_median_beat(write(file, document(waveforms(stored_beat()), measured={})))
    assert (found.beats_used, found.beats_found) == (0, 0)
    assert np.isnan(found.heart_rate)


@pytest.mark.parametrize("names", [LEADS, [lead.upper() for lead in LEADS]])
def test_leads_are_found_by_name_in_any_order(file, names):
    stored = stored_beat()
    order = np.random.default_rng(3).permutation(12)
    inside = waveforms(stored[order], [names[k] for k in order])
    found = read_median_beat(write(file, document(inside)))
    np.testing.assert_allclose(found.ecg, expected(stored), rtol=0, atol=1e-6)


def test_without_a_derived_lead_or_all_four_the_beat_is_the_same(file):
    stored = stored_beat()
    for left_out in ([2], [2, 3, 4, 5]):
        kept = [k for k in range(12) if k not in left_out]
        inside = waveforms(stored[kept], [LEADS[k] for k in kept])
        found = read_median_beat(write(file, document(inside)))
        np.testing.assert_allclose(found.ecg, expected(stored), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("resolution", "unit", "uv"),
    [
        *((5, "uVperLsb", 5), (2.5, "UVPERLSB", 2.5), (5, "\u00b5VperLsb", 5)),
        *((4880, "nVperLsb", 4.88), (0.01, "mVperLsb", 10)),
    ],
)
def test_the_resolution_of_the_file_is_used(file, resolution, unit, uv):
    stored = stored_beat(resolution=uv)
    strip = stored_strip(resolution=uv)
    inside = {"resolution": resolution, "unit": unit}
    write(file, document(waveforms(stored, **inside), waveforms(strip, **inside)))
    found = read_median_beat(file).ecg
    np.testing.assert_allclose(found, expected(stored, uv), rtol=0, atol=1e-6)
    np.testing.assert_allclose(read_strip(file).ecg, strip * uv / 1000, rtol=1e-12)


@pytest.mark.parametrize("rate", [250, 1000])
def test_another_sampling_rate_gives_the_same_beat(file, rate):
    text = document(waveforms(stored_beat(rate), rate=rate))
    found = read_median_beat(write(file, text)).ecg
    truth = beat((np.arange(400) - QRS_SAMPLE) / 500)
    error = 1000 * np.sqrt(((found - truth) ** 2).mean(axis=1))
    assert error.max() < 5  # uV; the units are 5
    assert np.abs(found - truth).max() < 0.03


def test_a_strip_is_read_with_its_rate_and_names_and_nothing_of_other_sections(file):
    strip = stored_strip(sampling_rate=250)
    order = np.random.default_rng(1).permutation(12)
    names = [LEADS[k] for k in order]
    text = document(waveforms(stored_beat()), waveforms(strip[order], names, rate=250))
    found = read_strip(write(file, text))
    np.testing.assert_allclose(found.ecg, strip[order] * 0.005, rtol=1e-12)
    assert found.sampling_rate == 250
    assert found.leads == names


def test_the_beat_of_the_strip_agrees_with_the_stored_one(file):
    strip = stored_strip(heart_rate=60, seed=2)
    write(file, document(waveforms(stored_beat()), waveforms(strip)))
    ours, theirs = median_beat(*read_strip(file)).ecg, read_median_beat(file).ecg
    theirs = theirs - theirs[:, 115:123].mean(axis=1, keepdims=True)  # zero in the PR segment
    errors = [
        1000 * np.sqrt(np.mean((ours[:, 10 + s : 390 + s] - theirs[:, 10:390]) ** 2))
        for s in (-3, -2, -1, 0, 1, 2, 3)
    ]
    # 3 uV and 6 ms are what test_beats.py grants a clean strip; half a sample and the rounding to
    # units of 5 uV come on top.
    assert min(errors) < 12
    fine = np.polyfit(range(-3, 4), np.square(errors), 2)  # its vertex: the shift in samples
    assert abs(fine[1] / (2 * fine[0])) < 3


@pytest.mark.parametrize(
    ("head", "encoding"),
    [
        ('<?xml version="1.0" encoding="ISO-8859-1" ?>', "iso-8859-1"),
        ('<?xml version="1.0" encoding="UTF-8" ?>', "utf-8"),
        ('<?xml version="1.0" encoding="UTF-8" ?>', "utf-8-sig"),
        ("", "utf-8-sig"),
        ('<?xml version="1.0" encoding="UTF-16" ?>', "utf-16"),
        ('<?xml version="1.0" encoding="windows-1252" ?>', "cp1252"),
    ],
)
def test_declared_encodings_and_byte_order_marks_are_understood(file, head, encoding):
    text = head + document(waveforms(stored_beat())).split("?>", 1)[1].lstrip()
    found = read_median_beat(write(file, text, encoding=encoding))
    np.testing.assert_allclose(found.ecg, expected(stored_beat()), rtol=0, atol=1e-6)


def test_samples_outside_of_the_valid_range_are_not_used(file):
    stored = stored_beat()
    for valid in ((START, START + SAMPLES - 1), (0, 10_000)):
        found = read_median_beat(write(file, document(waveforms(stored, valid=valid))))
        np.testing.assert_allclose(found.ecg, expected(stored), rtol=0, atol=1e-6)
    for valid in ((START + 1, 599), (0, START + SAMPLES - 2)):
        text = document(waveforms(stored, valid=valid))
        refused(file, text, "too short around the QRS")


# --- what is refused ----------------------------------------------------------------------------


def changed(**lead_rows):
    stored = stored_beat()
    for lead, row in lead_rows.items():
        stored[LEADS.index(lead)] = row
    return waveforms(stored)


ELEVEN = [k for k in range(12) if LEADS[k] != "V3"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (lambda: document(strip=waveforms(stored_strip())), "no median beat"),
        (lambda: document(waveforms(stored_beat(), count=601)), "lead I of the median beat has"),
        (lambda: document(waveforms(stored_beat(), texts={"V2": "1,2,3"})), "lead V2 of the"),
        (lambda: document(waveforms(stored_beat(), texts={"V2": ""})), "lead V2 has samples that"),
        (
            lambda: document(waveforms(stored_beat(), texts={"aVF": "1,,2"})),
            "lead aVF has samples that are no numbers",
        ),
        (
            lambda: document(waveforms(stored_beat(), texts={"V6": "1,x" + ",2" * 598})),
            "lead V6 has samples that are no numbers",
        ),
        (
            lambda: document(waveforms(stored_beat(), texts={"V6": "1,1e400" + ",2" * 598})),
            "lead V6 has samples that are no ECG",
        ),
        (
            lambda: document(waveforms(stored_beat(), texts={"V6": "nan" + ",2" * 599})),
            "lead V6 has samples that are no ECG",
        ),
        (
            lambda: document(waveforms(stored_beat(), texts={"I": "1," * 100_000 + "1"})),
            "lead I has more than 100000 samples",
        ),
        (lambda: document(changed(V1=10**8)), "lead V1 is flat"),
        (lambda: document(waveforms(stored_beat() * 1000)), "amplitude is not in mV"),
        (lambda: document(waveforms(stored_beat() * 0)), "all leads are flat"),
        (lambda: document(changed(V4=0)), "lead V4 is flat"),
        (lambda: document(changed(aVR=stored_beat()[0])), "lead aVR contradicts leads I and II"),
        (
            lambda: document(waveforms(stored_beat()[ELEVEN], [LEADS[k] for k in ELEVEN])),
            "lead V3 is not there",
        ),
        (
            lambda: document(waveforms(stored_beat(), ["I", "I", *LEADS[2:]])),
            "lead I is there twice",
        ),
        (lambda: document(waveforms(stored_beat(), [*LEADS[:11], "V7"])), "unknown lead 'V7'"),
        (lambda: document(waveforms(stored_beat(), unit="mmHg")), "no resolution of the median"),
        (lambda: document(waveforms(stored_beat(), unit="VPerLsb")), "no resolution of the"),
        (lambda: document(waveforms(stored_beat(), unit="mVPerLsb")), "amplitude is not in mV"),
        (lambda: document(waveforms(stored_beat(), resolution=0)), "no resolution of the median"),
        (lambda: document(waveforms(stored_beat(), resolution="-5")), "no resolution of the"),
        (lambda: document(waveforms(stored_beat(), rate="")), "no sampling rate of the median"),
        (lambda: document(waveforms(stored_beat(), rate_unit="kHz")), "no sampling rate of"),
        (lambda: document(waveforms(stored_beat(), rate="1e-9")), "sampling rate of 1e-09 Hz"),
        (lambda: document(waveforms(stored_beat(), rate="1e9")), r"sampling rate of 1e\+09 Hz"),
        (lambda: document(waveforms(stored_beat()), qrs=(None, 524)), "no QRS onset and offset"),
        (lambda: document(waveforms(stored_beat()), qrs=(432, "")), "no QRS onset and offset"),
        (lambda: document(waveforms(stored_beat()), qrs_unit="sample"), "no QRS onset and off"),
        (lambda: document(waveforms(stored_beat()), qrs=(0, 0)), "contradict each other"),
        (lambda: document(waveforms(stored_beat()), qrs=(524, 432)), "contradict each other"),
        (lambda: document(waveforms(stored_beat()), qrs=(1, "1e300")), "contradict each other"),
        (lambda: document(waveforms(stored_beat()), qrs=(200, 280)), "too short around the QRS"),
        (lambda: document(waveforms(stored_beat()), qrs=(760, 860)), "too short around the QRS"),
        (lambda: document(waveforms(stored_beat()))[:9000], "damaged XML: no element found"),
        (lambda: "", "damaged XML: no element found"),
        (lambda: "\x89PNG and so on", "damaged XML"),
        (lambda: "<html><body>Not found</body></html>", "not a CardioSoft XML file"),
        (lambda: "<CardiologyXML>" + "<a>" * 40, "nested deeper"),
        (
            lambda: document(waveforms(stored_beat(), texts={"I": "1" + ",2" * 599 + "<a>3</a>"})),
            "unexpected element a among values",
        ),
        (
            lambda: document("<WaveformData lead='I'>1</WaveformData>" * 40),
            "more than 32 elements WaveformData",
        ),
    ],
)
def test_a_file_without_a_usable_median_beat_is_refused_with_the_reason(file, text, message):
    refused(file, text(), message)


@pytest.mark.parametrize("encoding", ["nonsense", "utf-7", "big5"])
def test_an_unknown_encoding_is_refused(file, encoding):
    text = document(waveforms(stored_beat())).replace("ISO-8859-1", encoding)
    refused(file, text, "unknown encoding", encoding="utf-8")


def test_text_in_another_encoding_than_declared_is_refused(file):
    text = document(waveforms(stored_beat())).replace("ISO-8859-1", "UTF-8")
    refused(file, text, "damaged XML: not well-formed", encoding="iso-8859-1")


def test_a_file_without_a_strip_is_refused_as_one(file):
    refused(file, document(waveforms(stored_beat())), "no rhythm strip", read=read_strip)


def test_damage_after_the_section_that_is_read_does_not_matter(file):
    text = document(waveforms(stored_beat()), waveforms(stored_strip()))
    write(file, text[: text.index("<StripData>") + 5000])
    assert read_median_beat(file).ecg.shape == (12, 400)
    with pytest.raises(BeatError, match="damaged XML"):
        read_strip(file)


# --- hostile files ------------------------------------------------------------------------------

LAUGHS = "<!ENTITY a0 'ha'>" + "".join(
    f"<!ENTITY a{n} '{f'&a{n - 1};' * 10}'>" for n in range(1, 10)
)


@pytest.mark.parametrize(
    "definition",
    [
        f"<!DOCTYPE CardiologyXML [{LAUGHS}]>",
        "<!DOCTYPE CardiologyXML [<!ENTITY a9 SYSTEM 'SECRET'>]>",
        "<!DOCTYPE CardiologyXML [<!ENTITY % a9 SYSTEM 'SECRET'> %a9;]>",
        "<!DOCTYPE CardiologyXML SYSTEM 'SECRET'>",
        "<!DOCTYPE CardiologyXML>",
    ],
)
@pytest.mark.parametrize("read", [read_median_beat, read_strip])
def test_a_document_type_definition_is_refused_before_it_does_anything(file, definition, read):
    secret = file.parent / "secret.txt"
    secret.write_text(samples_text(stored_beat()[0]))
    inside = waveforms(stored_beat(), texts={"I": "&a9;"})
    text = document(inside, inside).replace("<CardiologyXML>", f"{definition}\n<CardiologyXML>")
    text = text.replace("SECRET", secret.as_uri())
    tracemalloc.start()
    refused(file, text, "document type definition", read=read)
    assert tracemalloc.get_traced_memory()[1] < 2**21
    tracemalloc.stop()
    assert all(np.isnan(value) for value in read_measurements(file).values())


def test_an_entity_that_nothing_defines_is_refused(file):
    refused(file, document(waveforms(stored_beat(), texts={"I": "&a9;"})), "undefined entity")


def test_a_file_that_is_too_large_is_refused_without_being_held_in_memory(file):
    bound = cardiosoft.MAX_BYTES
    with file.open("wb") as opened:
        opened.write(b"<CardiologyXML><Comment>")
        for _ in range(100):
            opened.write(b"1," * 2**19)
    assert file.stat().st_size > 6 * bound
    tracemalloc.start()
    with pytest.raises(BeatError, match="larger than 16 MB"):
        read_median_beat(file)
    assert tracemalloc.get_traced_memory()[1] < bound / 8
    tracemalloc.stop()


def test_measurements_of_any_damaged_file_are_missing(file):
    for text in ("", "<html/>", document(waveforms(stored_beat()))[:700]):
        found = read_measurements(write(file, text))
        assert list(found) == ["ecg_age", *MEASUREMENTS]
        assert np.isnan(list(found.values())).all()
    assert np.isnan(list(read_measurements(file.parent / "nowhere.xml").values())).all()


def test_elements_of_the_same_name_elsewhere_or_again_are_not_taken(file):
    text = document(waveforms(stored_beat()))
    again = text.replace("</MedianSamples>", "</MedianSamples><QOnset units='ms'>1</QOnset>")
    elsewhere = text.replace("<PatientInfo>", "<QOnset units='ms'>1</QOnset><PatientInfo>")
    for other in (again, elsewhere):
        found = read_median_beat(write(file, other)).ecg
        np.testing.assert_allclose(found, expected(stored_beat()), rtol=0, atol=1e-6)


# --- a real file --------------------------------------------------------------------------------

real = pytest.mark.skipif(not REAL.is_file(), reason="no CardioSoft file is beside the checkout")


@real
def test_a_real_median_beat_has_the_amplitudes_that_the_recorder_measured():
    found = read_median_beat(REAL)
    measured = [615, 957, 517, 156, 214, 673, 439, 595, 1049, 1879, 1650, 1352]  # R, uV
    window = slice(QRS_SAMPLE - 25, QRS_SAMPLE + 25)
    peaks = 1000 * found.ecg[:, window].max(axis=1)
    # Its own medians of III and aVR to aVF are up to 2 units of 5 uV off the derived ones.
    np.testing.assert_allclose(peaks, measured, atol=25)
    assert (found.beats_used, found.heart_rate) == (8, 50)
    onset = QRS_SAMPLE - 23  # 92 ms, as measured
    assert np.abs(independent_leads(found.ecg)[:, onset]).max() < 1e-6  # its zero


@real
def test_real_stored_limb_leads_obey_einthoven_within_two_units():
    document = cardiosoft._parse(
        REAL, {f"{cardiosoft._MEDIAN}/{n}" for n in (*cardiosoft._SCALES, "WaveformData")}, "none"
    )
    stored, _, leads = cardiosoft._waveforms(document, cardiosoft._MEDIAN, "median beat")
    assert tuple(leads) == LEADS
    assert np.abs(stored - derive_leads(independent_leads(stored))).max() < 0.0101


@real
def test_our_beat_from_a_real_strip_agrees_with_the_recorders_own():
    ours, theirs = median_beat(*read_strip(REAL)), read_median_beat(REAL)
    level = (theirs.ecg - ours.ecg)[:, 20:380].mean(axis=1, keepdims=True)  # two zeros
    inside = slice(20, 380)
    best = min(
        (
            1000 * np.sqrt(np.mean((moved + level - theirs.ecg)[:, inside] ** 2, axis=1))
            for moved in (shift(ours.ecg, (0, lag)) for lag in np.arange(-3, 3.1, 0.25))
        ),
        key=np.mean,
    )
    assert best.max() < 15  # uV per lead; the noise of our beat alone is 10
    assert np.abs(level).max() < 0.03
    assert ours.heart_rate == pytest.approx(50, abs=1)
    assert ours.beats_used == theirs.beats_used
    largest = np.abs(ours.ecg).max(axis=1) / np.abs(theirs.ecg).max(axis=1)
    np.testing.assert_allclose(largest, 1, atol=0.06)
