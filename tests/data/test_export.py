"""Files of ECGs, read back by the programs that others read them with."""

import numpy as np
import pandas as pd
import pytest
import wfdb

from data.export import ExportError, write_csv, write_npz, write_wfdb
from data.leads import LEADS

ECG = np.random.default_rng(0).normal(0, 0.7, (12, 400)).astype(np.float32)


# --- WFDB ---------------------------------------------------------------------------------------


def test_wfdb_reads_back_every_sample_to_half_a_microvolt(tmp_path):
    write_wfdb(tmp_path, "beat", ECG, comments=["synthetic: yes", "bmi: 31 kg/m2"])
    record = wfdb.rdrecord(str(tmp_path / "beat"))
    assert np.abs(record.p_signal.T - ECG).max() <= 0.5001e-3
    assert record.sig_name == list(LEADS)
    assert record.units == ["mV"] * 12
    assert (record.fs, record.sig_len, record.n_sig) == (500, 400, 12)
    assert record.comments == ["synthetic: yes", "bmi: 31 kg/m2"]
    assert record.fmt == ["16"] * 12


def test_the_record_is_the_one_that_wfdb_itself_writes(tmp_path):
    ecg = np.round(1000 * ECG) / 1000
    write_wfdb(tmp_path, "ours", ecg, comments=["one", "two"], sampling_rate=250)
    digital = np.round(1000 * ecg.T.astype(np.float64)).astype(np.int64)
    wfdb.wrsamp(
        "theirs",
        fs=250,
        units=["mV"] * 12,
        sig_name=list(LEADS),
        d_signal=digital,
        fmt=["16"] * 12,
        adc_gain=[1000] * 12,
        baseline=[0] * 12,
        comments=["one", "two"],
        write_dir=str(tmp_path),
    )
    assert (tmp_path / "ours.dat").read_bytes() == (tmp_path / "theirs.dat").read_bytes()
    theirs = (tmp_path / "theirs.hea").read_text().replace("theirs", "ours")
    assert (tmp_path / "ours.hea").read_text() == theirs.replace("1000.0(0)", "1000(0)")


def test_comments_of_several_lines_stay_comments(tmp_path):
    write_wfdb(tmp_path, "r", ECG, comments=["sex: female\nV1 is high\r", "age: 50"])
    assert wfdb.rdheader(str(tmp_path / "r")).comments == ["sex: female", "V1 is high", "age: 50"]


@pytest.mark.parametrize("peak", [32.767, -32.767])
def test_wfdb_holds_what_sixteen_bits_hold(tmp_path, peak):
    ecg = ECG.copy()
    ecg[4, 7] = peak
    write_wfdb(tmp_path, "high", ecg)
    assert wfdb.rdrecord(str(tmp_path / "high")).p_signal[7, 4] == pytest.approx(peak)


@pytest.mark.parametrize("peak", [32.768, -32.768, 1e6, np.nan, np.inf])
def test_wfdb_refuses_what_would_overflow_and_writes_nothing(tmp_path, peak):
    ecg = ECG.copy()
    ecg[4, 7] = peak
    with pytest.raises(ExportError, match=r"high: expected values of \+-32.767 mV"):
        write_wfdb(tmp_path, "high", ecg)
    assert list(tmp_path.iterdir()) == []


# --- CSV ----------------------------------------------------------------------------------------


def test_csv_has_a_time_column_and_one_per_lead_in_millivolts(tmp_path):
    write_csv(tmp_path, "beat", ECG)
    table = pd.read_csv(tmp_path / "beat.csv")
    assert list(table) == ["time_ms", *LEADS]
    assert table["time_ms"].tolist() == list(range(0, 800, 2))
    assert np.abs(table[list(LEADS)].to_numpy().T - ECG).max() <= 0.0501e-3


def test_csv_of_other_leads_at_another_rate(tmp_path):
    write_csv(tmp_path, "two", np.eye(2, 4, dtype=np.float32), ["X", "Y"], 1024)
    table = pd.read_csv(tmp_path / "two.csv")
    assert table["time_ms"].to_numpy() == pytest.approx(np.arange(4) / 1.024, rel=1e-5)
    assert table["X"].tolist() == [1, 0, 0, 0]
    assert table["Y"].tolist() == [0, 1, 0, 0]


# --- NPZ ----------------------------------------------------------------------------------------


def test_npz_gives_back_every_bit_without_pickle(tmp_path):
    many = np.stack([ECG, 2 * ECG, -ECG, ECG / 3, 0 * ECG])
    columns = {"age": np.array([50, 60, np.nan, 70, 80]), "sex": np.array(["a", "b", "", "a", "b"])}
    write_npz(tmp_path / "x.npz", [many[:2], many[2:]], many.shape, columns=columns)
    with np.load(tmp_path / "x.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["ecg"], many)
        assert file["ecg"].dtype == np.float32
        assert tuple(file["leads"]) == LEADS
        assert float(file["sampling_rate"]) == 500
        assert file["conditions"].tolist() == ["age", "sex"]
        np.testing.assert_array_equal(file["age"], columns["age"])
        assert file["sex"].tolist() == columns["sex"].tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


@pytest.mark.parametrize("name", ["ecg", "leads", "sampling_rate", "conditions", "unit"])
def test_npz_refuses_a_column_that_would_replace_another_array(tmp_path, name):
    with pytest.raises(ExportError, match=rf"of other names.*Received: \['{name}'\]"):
        write_npz(tmp_path / "x.npz", [ECG[None]], (1, 12, 400), columns={name: np.zeros(1)})
    assert list(tmp_path.iterdir()) == []


def test_npz_of_another_number_of_ecgs_than_announced_is_not_kept(tmp_path):
    with pytest.raises(ExportError, match="expected 3 ECGs. Received: 2"):
        write_npz(tmp_path / "x.npz", [ECG[None]] * 2, (3, 12, 400))
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_npz_leaves_the_old_file(tmp_path):
    write_npz(tmp_path / "x.npz", [ECG[None]], (1, 12, 400))
    before = (tmp_path / "x.npz").read_bytes()

    def stopped():
        yield ECG[None]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_npz(tmp_path / "x.npz", stopped(), (2, 12, 400))
    assert (tmp_path / "x.npz").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]
