import keras
import numpy as np
import pytest

from model.warp import FASTEST, TimeWarp
from vae import VAE

B, LEADS, SAMPLES, KNOTS = 4, 2, 80, 9
AT = 30
TIME = np.arange(SAMPLES)
RNG = np.random.default_rng(0)
ECG = np.cumsum(RNG.normal(size=(B, LEADS, SAMPLES)), axis=2).astype(np.float32)


def warped(ecg, speeds):
    layer = TimeWarp(AT)
    return keras.ops.convert_to_numpy(layer([np.float32(ecg), np.float32(speeds)]))


def test_at_normal_speed_nothing_changes():
    np.testing.assert_allclose(warped(ECG, np.zeros((B, KNOTS))), ECG, atol=1e-4)


@pytest.mark.parametrize("speed", [0.6, 1.0, 1.8])
def test_at_another_speed_the_beat_is_read_off_from_the_qrs_outwards(speed):
    knots = np.full((B, KNOTS), np.arctanh(np.log(speed) / FASTEST))
    source = np.clip(AT + speed * (TIME - AT), 0, SAMPLES - 1)
    expected = [[np.interp(source, TIME, lead) for lead in beat] for beat in ECG]
    np.testing.assert_allclose(warped(ECG, knots), expected, atol=2e-3)


def test_a_wave_moves_and_the_qrs_stays():
    wave = np.exp(-0.5 * ((TIME - 12) / 3) ** 2) + 3 * np.exp(-0.5 * ((TIME - AT) / 1.5) ** 2)
    knots = np.zeros((1, KNOTS))
    knots[0, 2] = 0.8  # between this wave and R time runs faster: there is less of it
    moved = warped(wave[None, None], knots)[0, 0]
    assert moved.argmax() == AT
    assert 14 <= moved[: AT - 6].argmax() <= 20
    assert moved[: AT - 6].max() == pytest.approx(1, abs=0.05)


def test_the_decoder_keeps_the_qrs_of_its_model_in_place():
    for qrs_sample, at in ((20, 20), (None, SAMPLES - 1)):  # or the last sample, if it ends before
        settings = {"hidden": (3,), "time_warp": 5, "qrs_sample": qrs_sample}
        model = VAE((12, SAMPLES), (2,), ((1, 5),), ("same",), 2, 0, **settings)
        ramp = np.tile(np.float32(TIME), (8, 1))
        model.decoder.get_layer("time_warp").mean_beat.assign(ramp)
        model.decoder.get_layer("speeds").bias.assign([0.5, -0.5, 0.3, 1, -1])
        read = np.asarray(model.decoder([np.zeros((1, 2)), np.zeros((1, 0))]))[0] + ramp
        assert np.abs(read - ramp).max() > 1
        np.testing.assert_allclose(read[:, at], at, atol=1e-3)


def test_time_never_turns_back_however_strong_the_weights():
    ramp = np.tile(TIME, (B, LEADS, 1))
    read = warped(ramp, 50 * RNG.normal(size=(B, KNOTS)))
    assert (np.diff(read, axis=2) >= -1e-3).all()
    np.testing.assert_allclose(read[:, :, AT], AT, atol=1e-3)


def test_gradients_are_those_of_finite_differences():
    tf = pytest.importorskip("tensorflow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("another backend")
    smooth = np.sin(TIME / 5 + np.arange(B)[:, None, None] + np.arange(LEADS)[:, None])
    speeds = 0.1 * RNG.normal(size=(B, KNOTS))
    goal = np.cos(TIME / 5)
    layer = TimeWarp(AT)

    def loss(ecg, speeds):
        return keras.ops.sum(layer([ecg, speeds]) * goal)

    ecg, knots = tf.Variable(np.float32(smooth)), tf.Variable(np.float32(speeds))
    with tf.GradientTape() as tape:
        value = loss(tf.identity(ecg), tf.identity(knots))
    of_ecg, of_speeds = tape.gradient(value, [ecg, knots])
    step = 0.02
    for row, knot in ((0, 1), (1, 4), (2, 7), (3, 0)):
        change = np.zeros((B, KNOTS))
        change[row, knot] = step
        ends = [
            float(loss(np.float32(smooth), np.float32(speeds + sign * change))) for sign in (1, -1)
        ]
        slope = (ends[0] - ends[1]) / (2 * step)
        assert float(of_speeds[row, knot]) == pytest.approx(slope, rel=0.03, abs=0.15)
    # Linear in the ECG: the gradient gives the value back.
    assert float(keras.ops.sum(of_ecg * smooth)) == pytest.approx(float(value), rel=1e-4)


def test_the_mean_beat_moves_with_the_deviation_from_it():
    layer, speed = TimeWarp(AT), 1.4
    knots = np.full((B, KNOTS), np.arctanh(np.log(speed) / FASTEST), np.float32)
    layer([ECG, knots])
    mean, profile = ECG[0] + np.sin(TIME / 7), np.exp(0.3 * np.cos(TIME / 9)) * np.ones((LEADS, 1))
    layer.mean_beat.assign(mean)
    layer.profile.assign(profile)
    source = np.clip(AT + speed * (TIME - AT), 0, SAMPLES - 1)
    beats = [[np.interp(source, TIME, lead) for lead in profile * beat + mean] for beat in ECG]
    found = keras.ops.convert_to_numpy(layer([ECG, knots]))
    np.testing.assert_allclose(found, (np.array(beats) - mean) / profile, atol=5e-3)
