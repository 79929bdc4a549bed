"""Tests of model folders that were damaged, changed or made to harm."""

import json

import h5py
import numpy as np
import pytest

from model import saving
from model.network import ModelError
from vae import VAE

ECG = np.random.default_rng(0).normal(0, 0.2, (8, 12, 40)).astype(np.float32)


def small(**settings):
    layers = {"conv_filters": (2,), "conv_kernels": ((1, 5),), "conv_paddings": ("same",)}
    return VAE((12, 40), **layers, latent_space_dim=2, condition_dim=0, hidden=(), **settings)


@pytest.fixture(scope="module")
def model():
    return small().adapt(ECG)


@pytest.fixture
def folder(model, tmp_path):
    model.save(tmp_path / "model")
    return tmp_path / "model"


def edit_weights(folder, edit):
    """Changes the weights and puts the checksum right, as somebody who means harm would."""
    with h5py.File(folder / saving.WEIGHTS, "r+") as content:
        edit(content)
    description = json.loads((folder / saving.DESCRIPTION).read_text("utf-8"))
    description["weights_sha256"] = saving._checksum(folder / saving.WEIGHTS)
    (folder / saving.DESCRIPTION).write_text(json.dumps(description), "utf-8")


def replace_by(path, make):
    def edit(content):
        shape = content[path].shape
        del content[path]
        make(content, shape)

    return edit


def nan(content):
    content["vars/1"][0, 0] = np.nan


LINK = "vars/1"
HARMFUL = {
    "external link": replace_by(
        LINK, lambda f, shape: f.__setitem__(LINK, h5py.ExternalLink("/etc/passwd", "/"))
    ),
    "soft link": replace_by(LINK, lambda f, shape: f.__setitem__(LINK, h5py.SoftLink("/vars/0"))),
    "compressed": replace_by(
        LINK, lambda f, s: f.create_dataset(LINK, data=np.zeros(s, "f4"), compression="gzip")
    ),
    "never written": replace_by(
        LINK, lambda f, s: f.create_dataset(LINK, (10**6, 10**6), "f4", chunks=(100, 100))
    ),
    "text": replace_by(LINK, lambda f, s: f.create_dataset(LINK, data=np.full(s, b"x", "S1"))),
    "in another file": replace_by(
        LINK, lambda f, s: f.create_dataset(LINK, s, "f4", external=[("other", 0, 4 * 8 * 40)])
    ),
    "nan": nan,
}


@pytest.mark.parametrize("kind", HARMFUL)
def test_weights_that_are_no_plain_finite_numbers_are_refused(folder, kind):
    edit_weights(folder, HARMFUL[kind])
    expected = {"external link": "link to", "soft link": "link to", "nan": "NaN"}
    with pytest.raises(ModelError, match=f"vars/1 .*{expected.get(kind, 'plain numbers itself')}"):
        VAE.load(folder)


def test_weights_of_another_model_are_not_taken_for_its_own(folder, tmp_path):
    small(seed=1).save(tmp_path / "other")
    (tmp_path / "other" / saving.WEIGHTS).replace(folder / saving.WEIGHTS)
    with pytest.raises(ModelError, match="is not the file that parameters.json was saved with"):
        VAE.load(folder)


def test_a_change_of_one_bit_in_the_weights_is_seen(folder):
    content = bytearray((folder / saving.WEIGHTS).read_bytes())
    content[-5] ^= 1
    (folder / saving.WEIGHTS).write_bytes(content)
    with pytest.raises(ModelError, match="was changed"):
        VAE.load(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "damaged"),
        pytest.param("[" * 100_000, "damaged", id="deep"),
        ("null", "damaged"),
        ('{"format_version": true}', "damaged"),
        ('{"format_version": NaN}', "NaN"),
        ("\ufeff{}", "damaged"),
    ],
)
def test_a_description_that_is_none_is_one_error(folder, text, message):
    (folder / saving.DESCRIPTION).write_text(text, "utf-8")
    with pytest.raises(ModelError, match=message):
        VAE.load(folder)


def test_a_description_that_is_no_text_is_one_error(folder):
    (folder / saving.DESCRIPTION).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelError, match="damaged"):
        VAE.load(folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("unit", "uV", "expected mV"),
        ("format_version", saving.FORMAT_VERSION + 1, "newer version"),
        ("format_version", saving.OLDEST - 1, "earlier version.*train again"),
        ("class", "Lambda", "holds a 'Lambda'"),
        ("class", ["VAE"], "damaged"),
        ("config", None, "damaged"),
        ("config", {}, "damaged"),
    ],
)
def test_a_changed_description_is_one_error(folder, key, value, message):
    description = json.loads((folder / saving.DESCRIPTION).read_text("utf-8"))
    (folder / saving.DESCRIPTION).write_text(json.dumps(description | {key: value}), "utf-8")
    with pytest.raises(ModelError, match=message):
        VAE.load(folder)


def test_a_warp_that_an_earlier_version_anchored_elsewhere_is_refused(tmp_path):
    for qrs_sample, kept in ((15, True), (10, False)):  # of 40 samples; it was 3/8 of them then
        model = small(time_warp=5, qrs_sample=qrs_sample).adapt(ECG)
        model.save(tmp_path)
        ecg = VAE.load(tmp_path).decode(np.ones((3, 2)))
        np.testing.assert_array_equal(ecg, model.decode(np.ones((3, 2))))
        description = json.loads((tmp_path / saving.DESCRIPTION).read_text("utf-8"))
        description["format_version"] = 7
        (tmp_path / saving.DESCRIPTION).write_text(json.dumps(description), "utf-8")
        if kept:
            np.testing.assert_array_equal(VAE.load(tmp_path).decode(np.ones((3, 2))), ecg)
            continue
        with pytest.raises(ModelError, match="sample 15 .* of the QRS, 10.* train again"):
            VAE.load(tmp_path)


def test_saving_over_a_model_leaves_the_old_one_or_none_where_it_stops(folder, monkeypatch):
    other = small(seed=5).adapt(ECG * 2)
    monkeypatch.setattr(saving, "_checksum", lambda file: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        other.save(folder)
    monkeypatch.undo()
    assert VAE.load(folder).settings["seed"] == 0
    other.save(folder)
    assert VAE.load(folder).settings["seed"] == 5
    assert sorted(path.name for path in folder.iterdir()) == [saving.WEIGHTS, saving.DESCRIPTION]


def test_the_unit_is_kept_and_of_older_models_millivolts(tmp_path):
    small(unit="standardised").save(tmp_path / "standardised")
    assert VAE.load(tmp_path / "standardised").unit == "standardised"
    small().save(tmp_path / "older")
    description = json.loads((tmp_path / "older" / saving.DESCRIPTION).read_text("utf-8"))
    del description["config"]["unit"]  # written before it was kept
    (tmp_path / "older" / saving.DESCRIPTION).write_text(json.dumps(description), "utf-8")
    assert VAE.load(tmp_path / "older").unit == "mV"
    description["unit"] = "standardised"
    (tmp_path / "older" / saving.DESCRIPTION).write_text(json.dumps(description), "utf-8")
    with pytest.raises(ModelError, match="names two units"):
        VAE.load(tmp_path / "older")
    with pytest.raises(ModelError, match="Expected a unit among .*Received: 'uV'"):
        small(unit="uV")


def test_rate_and_qrs_are_kept_and_of_older_models_known(tmp_path):
    small(sampling_rate=250.0, qrs_sample=17).save(tmp_path)
    assert VAE.load(tmp_path).timing == {"sampling_rate": 250.0, "qrs_sample": 17}
    description = json.loads((tmp_path / saving.DESCRIPTION).read_text("utf-8"))
    del description["config"]["qrs_sample"]  # written before it was kept
    (tmp_path / saving.DESCRIPTION).write_text(json.dumps(description), "utf-8")
    # 300 ms are sample 75, and the beat has 40.
    assert VAE.load(tmp_path).timing == {"sampling_rate": 250.0, "qrs_sample": 39}


def test_of_a_beat_that_ends_before_300_ms_the_qrs_is_the_last_sample(tmp_path):
    for given in ({}, {"qrs_sample": 150}):  # as older versions saved it
        model = small(**given)
        assert model.timing == {"sampling_rate": 500.0, "qrs_sample": 39}
    model.save(tmp_path)
    description = json.loads((tmp_path / saving.DESCRIPTION).read_text("utf-8"))
    description["config"]["qrs_sample"] = 150
    (tmp_path / saving.DESCRIPTION).write_text(json.dumps(description), "utf-8")
    assert VAE.load(tmp_path).timing["qrs_sample"] == 39
    description["config"]["qrs_sample"] = 149
    (tmp_path / saving.DESCRIPTION).write_text(json.dumps(description), "utf-8")
    with pytest.raises(ModelError, match="qrs_sample: expected 0 to 39"):
        VAE.load(tmp_path)
