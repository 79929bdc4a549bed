"""Conditional variational autoencoder for 12-lead ECGs.

The network of Sang, Beetz and Grau (ISBI 2022, doi 10.1109/ISBI52829.2022.9761431): temporal, then
lead-mixing convolutions, a small latent space, the subject's conditions given to the encoder and
the decoder, and the mirrored transposed convolutions. `PUBLISHED` runs it exactly. The defaults
keep the idea and change what the publication's code gets wrong: an evidence lower bound in nats
with a calibrated observation noise, a linear output, no batch statistics, the independent leads
only, and a closed-form start (`adapt`).

Dims: B batch, L leads, I independent leads, T samples, F filters, C conditions, Z latent.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
from keras import ops

from data.cohort import default_qrs_sample
from data.conditions import ConditionSchema
from data.leads import LEADS, expansion_matrix, independent_among
from data.units import MV
from model import closed_form, inputs, network
from model import noise as observation
from model.augment import DRAWN, augment
from model.inputs import Conditions
from model.network import ModelError
from model.own_objective import OwnObjective, check_no_targets, targets
from model.prior import Prior, standard_normal
from model.published import PUBLISHED, load_published
from model.replicas import random_rows, replicas, whole_batch
from model.saving import read_model, write_model

__all__ = ["PUBLISHED", "VAE", "Conditions", "ModelError"]


@keras.saving.register_keras_serializable(package="cvae_ecg")
class VAE(OwnObjective):
    """Conditional VAE from ECGs in mV to ECGs in mV; of another `unit`, mV stands for that one.

    Args:
        input_shape: (L, T) or (L, T, 1) of an ECG.
        conv_filters: filters of each encoder convolution; the decoder mirrors them.
        conv_kernels: (leads, samples) of each kernel. A kernel that spans all L leads spans all
            leads that the network works on (see `independent_only`).
        conv_paddings: "same" or "valid" for each convolution.
        latent_space_dim: Z.
        condition_dim: C, columns of the encoded conditions; 0 for an unconditional VAE.
        schema: names and scaling of the conditions; its `dim` is `condition_dim`. Without it,
            conditions are given as encoded arrays, and none may be left out.
        leads: names of the L leads; by default the standard twelve if L is 12.
        sampling_rate: Hz, for whoever reads the saved model.
        qrs_sample: on which the middle of the QRS lies, likewise; by default 300 ms from the first,
            or the last sample if the beat ends before that.
        unit: of the ECGs, "mV" or "standardised"; see `data.units`.
        hidden: widths of dense ELU layers before the latent heads, mirrored in the decoder.
        independent_only: work on the leads that do not follow from I and II, and derive the others,
            so that Einthoven's and Goldberger's equations hold exactly.
        batch_normalization: after each layer, as published. Training and inference then disagree.
        output: "linear", or "elu_batchnorm" as published (bounded below: no deep S waves).
        linear_path: add a linear encoder and decoder beside the convolutions. After `adapt` they
            are the conditional probabilistic PCA of the training data, and the convolutions learn
            what PCA cannot.
        time_warp: knots at which the decoder says how fast to read off the beat that it has made,
            so that waves can come earlier or later (see `model.warp`); 0 is none.
        noise: how a decoded ECG differs from the observed one: "per_sample", "per_recording",
            "learned", a number of mV, or "mse" as published; see `model.noise`.
        profile_power: how far training goes by the noise of each lead and sample, if it is
            "per_sample": from 0, all alike, to 1, where the QRS is given up.
        deviations: whether training counts the "squared" or the "absolute" deviations of a decoded
            ECG; see `model.noise`. Absolute ones need noise "per_sample".
        kl_weight: weight of the KL term (1 is the evidence lower bound). Schedules change it.
        free_bits: nats per latent dimension below which the KL term does not push.
        condition_dropout: probability in training that a condition is hidden, so that it can be
            left out at generation. Needs `schema`.
        prior: what `generate` draws latents from, as `fit_prior` finds it and `save` keeps it; by
            default N(0, I).
        seed: of weights, sampling and dropout.

    Raises:
        ModelError: the arguments do not make a network.

    Example:
        >>> vae = VAE((12, 400), (5, 5), ((1, 40), (12, 1)), ("same", "valid"), 10, 0)
        >>> vae.generate(n=2, seed=0).shape
        (2, 12, 400)
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        conv_filters: Sequence[int],
        conv_kernels: Sequence[Sequence[int]],
        conv_paddings: Sequence[str],
        latent_space_dim: int,
        condition_dim: int,
        *,
        schema: ConditionSchema | Mapping | None = None,
        leads: Sequence[str] | None = None,
        sampling_rate: float = 500.0,
        qrs_sample: int | None = None,
        unit: str = MV,
        hidden: Sequence[int] = (128,),
        independent_only: bool = True,
        batch_normalization: bool = False,
        output: str = "linear",
        linear_path: bool = True,
        time_warp: int = 0,
        noise: str | float = "per_recording",
        profile_power: float = 0.7,
        deviations: str = "squared",
        kl_weight: float = 1.0,
        free_bits: float = 0.0,
        condition_dropout: float = 0.0,
        prior: Mapping | None = None,
        seed: int = 0,
        name: str = "vae",
    ) -> None:
        # Under mixed precision the layers compute in half precision; ECGs and losses do not.
        super().__init__(name=name, dtype="float32")
        if isinstance(schema, Mapping):
            schema = ConditionSchema.from_dict(schema)
        self.schema = schema
        self.settings = {
            "input_shape": tuple(int(size) for size in input_shape),
            "conv_filters": tuple(int(filters) for filters in conv_filters),
            "conv_kernels": network.kernel_pairs(conv_kernels),
            "conv_paddings": tuple(conv_paddings),
            "latent_space_dim": int(latent_space_dim),
            "condition_dim": int(condition_dim),
            "leads": network.lead_names(leads, int(input_shape[0])),
            "sampling_rate": float(sampling_rate),
            "qrs_sample": _place_of_qrs(qrs_sample, float(sampling_rate), input_shape),
            "unit": unit,
            "hidden": tuple(int(width) for width in hidden),
            "independent_only": bool(independent_only),
            "batch_normalization": bool(batch_normalization),
            "output": output,
            "linear_path": bool(linear_path),
            "time_warp": int(time_warp),
            "noise": noise,
            "profile_power": float(profile_power),
            "deviations": deviations,
            "kl_weight": float(kl_weight),
            "free_bits": float(free_bits),
            "condition_dropout": float(condition_dropout),
            "seed": int(seed),
            "name": name,
        }
        self.ecg_shape = self.settings["input_shape"][:2]
        self.leads = self.settings["leads"]
        self.latent_space_dim = self.settings["latent_space_dim"]
        self.condition_dim = self.settings["condition_dim"]
        sizes = self.latent_space_dim, self.condition_dim
        self.prior = standard_normal(*sizes) if prior is None else Prior.from_dict(prior, *sizes)
        self._prior_is_stale = False  # the network was trained on since
        self.network_leads = independent_among(self.leads) if independent_only else self.leads
        network.check_settings(self.settings, schema, self.network_leads)

        self.picked = [self.leads.index(lead) for lead in self.network_leads]
        self._expansion = expansion_matrix(self.leads) if independent_only else None
        self._groups = None if schema is None else inputs.group_matrix(schema.widths)
        self.resident = None  # training ECGs (N, L, T) in mV on the device, for row numbers
        self._encode_batches = inputs.InBatches(self._posterior, self)
        self._decode_batches = inputs.InBatches(self._expected, self)
        self.random = keras.random.SeedGenerator(seed)

        shape = (len(self.network_leads), self.ecg_shape[1])
        state = random.getstate()  # Keras seeds initial weights from it; it is the caller's
        random.seed(seed)
        self.encoder, code_shape = network.build_encoder(self.settings, shape)
        self.decoder = network.build_decoder(self.settings, shape, code_shape)
        random.setstate(state)

        def weight(name: str, value: np.ndarray | float, trainable: bool = False) -> keras.Variable:
            return self.add_weight(
                shape=np.shape(value),
                initializer=lambda *_, **__: ops.convert_to_tensor(value, "float32"),
                trainable=trainable,
                name=name,
            )

        self.mean_beat = weight("mean_beat", np.zeros(shape))  # mV
        self.scale = weight("scale", 1.0)  # mV
        self.kl_weight = weight("kl_weight", kl_weight)
        # In units of `scale` (and `profile`). float32: 1 / noise^2 multiplies thousands of squares.
        noise_mv = 0.1 if isinstance(noise, str) else float(noise)
        trained = isinstance(noise, str) and noise != "mse"
        self.log_noise = weight("log_noise", math.log(noise_mv), trainable=trained)
        self.profile, self.noise_shape = 1.0, 0.0
        if noise == "per_sample":
            self.profile = weight("profile", np.ones(shape))  # what the network works in
            self.noise_shape = weight("noise_shape", np.zeros(shape))  # log; `fit_noise`
            self.noise_leads = weight("noise_leads", np.eye(shape[0]))
            self.noise_time = weight("noise_time", np.eye(shape[1]))

        self.trackers = {
            name: keras.metrics.Mean(name=name, dtype="float32")
            for name in ("loss", "objective", "reconstruction", "kl", "active_units", "rmse_uv")
        }
        self.built = True

    # --- training -------------------------------------------------------------------------------

    def call(self, inputs, training: bool = False) -> dict:
        """(ecg (B, L, T) mV, conditions (B, C)) -> reconstruction and posterior.

        A third input (B, 7), of `model.augment.draw`, changes the ECGs at random first.

        Returns:
            `reconstruction` (B, L, T) mV, `mean` and `log_var` (B, Z), and what the loss needs.
            The latent is sampled in training, and its mean otherwise.
        """
        ecg, conditions, *drawn = self._as_inputs(inputs)
        if drawn:
            ecg = self._augmented(ecg, drawn)
        if training:
            conditions = self._drop_conditions(conditions)
        x = self._standardise(ecg)
        mean, log_var = self.encoder([x, conditions], training=training)
        z = mean
        if training:
            noise = random_rows(keras.random.normal, ops.shape(mean), self.random)
            z = mean + ops.exp(0.5 * log_var) * noise
        decoded = self.decoder([z, conditions], training=training)  # (B, I, T)
        return {
            "standardised": x,
            "conditions": conditions,
            "decoded": decoded,
            "reconstruction": self._restore(decoded),
            "mean": mean,
            "log_var": log_var,
        }

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training: bool = True):
        """The negative evidence lower bound in nats per ECG, averaged over the batch.

        Reconstruction: minus the log likelihood of the network's leads, summed over leads and
        samples ("mse": squared error averaged over them; `deviations`: under a Laplace one if they
        are absolute). KL to N(0, I): summed over Z. Training decodes a sample of the posterior;
        otherwise its mean is decoded, and the value lies below that of the bound by about half a
        nat for each active dimension.

        Returns:
            Scalar: mean over B, weighted by `sample_weight` if given.
        """
        y = targets(y)
        if not self._reads_targets():
            check_no_targets(y)
        reconstruction = self.reconstruction_loss(y_pred["standardised"], y_pred["decoded"])
        kl = gaussian_kl(y_pred["mean"], y_pred["log_var"])  # (B, Z)
        error = self.profile * (y_pred["standardised"] - y_pred["decoded"])
        rmse = 1000 * self.scale * ops.sqrt(ops.mean(ops.square(error), axis=(1, 2)))
        weight = ops.ones_like(rmse)
        if sample_weight is not None:
            weight = ops.cast(ops.reshape(sample_weight, (-1,)), "float32")
        # From here on B are the rows of all devices.
        reconstruction, kl, rmse, weight = whole_batch([reconstruction, kl, rmse, weight])
        kl_sum = ops.sum(kl, axis=-1)
        mean_kl = ops.sum(kl * weight[:, None], axis=0) / ops.maximum(ops.sum(weight), 1e-9)  # (Z,)
        free_bits = self.settings["free_bits"]
        penalty = kl_sum
        if free_bits:
            # Kingma et al. 2016: the batch mean of each dimension must exceed the free bits.
            penalty = ops.sum(ops.maximum(mean_kl, free_bits)) + ops.zeros_like(kl_sum)
        loss = weighted_mean(reconstruction + self.kl_weight * penalty, weight)
        for regularisation in self.losses:
            loss = loss + regularisation
        loss = loss + self.extra_loss(y, y_pred, weight, loss)
        objective = reconstruction + self.settings["kl_weight"] * kl_sum
        self._track("loss", loss, weight)
        self._track("objective", weighted_mean(objective, weight), weight)
        self._track("reconstruction", weighted_mean(reconstruction, weight), weight)
        self._track("kl", weighted_mean(kl_sum, weight), weight)
        self._track("rmse_uv", weighted_mean(rmse, weight), weight)
        active = ops.sum(ops.cast(mean_kl > 0.1, "float32"))
        self._track("active_units", active, weight)
        return loss / replicas()

    def _reads_targets(self) -> bool:
        """Whether anything but the ECGs and conditions has a part in the loss: in a subclass."""
        kind = type(self)
        own = kind.extra_loss is VAE.extra_loss and kind.compute_loss is VAE.compute_loss
        return not own

    def _before_training(self) -> None:
        """Lets go of what was fitted to the network as it was; see `fit_noise` and `fit_prior`."""
        if not (self.encoder.trainable_variables or self.decoder.trainable_variables):
            return  # a head alone is trained
        self._prior_is_stale = self.prior.fitted
        if self.settings["noise"] == "per_sample" and ops.convert_to_numpy(self.noise_shape).any():
            closed_form.forget_noise(self)  # it would give up the QRS

    def _warn_of_prior(self) -> None:
        """Says once that latents are drawn from where they lay before training."""
        if self._prior_is_stale:
            self._prior_is_stale = False
            again = " and fit_noise" if self.settings["noise"] == "per_sample" else ""
            warnings.warn(
                "The network was trained on since fit_prior: what it generates is less like real "
                f"ECGs than it could be. Call fit_prior{again} again.",
                stacklevel=3,
            )

    def _checked_arrays(self, x, y, training: bool = False) -> tuple:
        """What `fit` is given, checked as `encode` does.

        Args:
            x: ecg (N, L, T) mV, or (ecg, conditions) and what `call` takes besides.
            y: targets of N subjects, or None.
            training: they are trained on.

        Returns:
            x with encoded conditions, and y.
        """
        x, n = self._checked_inputs(x)
        return x, self._checked_targets(y, n, training)

    def _checked_inputs(self, x) -> tuple:
        """Inputs as `_checked_arrays` gives them, and N."""
        ecg, *others = x if isinstance(x, (tuple, list)) else (x,)
        n = len(inputs.checked_ecg(ecg, self.ecg_shape, self._typical(), self.unit))
        if others:
            others[0] = self._encoded(others[0], n)
            x = (list if isinstance(x, list) else tuple)([ecg, *others])
        return x, n

    def _checked_targets(self, y, n: int, training: bool):
        """Targets of n subjects; of a subclass with a loss of its own they may be anything."""
        if not self._reads_targets():
            check_no_targets(y)
        return y

    def _has_classes(self) -> bool:
        """Whether targets may be classes, which can be weighted."""
        return self._reads_targets()

    def extra_loss(self, y, y_pred, weight, elbo):
        """What a subclass adds to the loss, a scalar; nothing here."""
        return 0.0

    def reconstruction_loss(self, x, decoded):
        """(B, I, T) standardised ECGs and their decoding -> (B,) loss, see `compute_loss`."""
        kinds = self.settings["noise"], self.settings["deviations"]
        return observation.negative_log_likelihood(x - decoded, self._log_noise(), *kinds)

    def _log_noise(self):
        """Log scale of the observation noise in units of `scale` and `profile`."""
        if isinstance(self.settings["noise"], str):
            return self.log_noise + self.noise_shape
        return self.log_noise - ops.log(self.scale)  # a fixed noise is given in mV

    def _as_inputs(self, given):
        """(ecg, conditions), or ecg alone, as tensors; numbers (B,) are rows of `resident`."""
        ecg, conditions, *drawn = given if isinstance(given, (tuple, list)) else (given, None)
        if len(ecg.shape) == 1:
            ecg = ops.take(self.resident, ecg, axis=0)
        ecg = ops.cast(ecg, "float32")
        if len(ecg.shape) == 4:
            ecg = ops.squeeze(ecg, axis=-1)
        if conditions is None:
            inputs.check_unknown(self.schema, self.condition_dim)
            conditions = ops.zeros((ops.shape(ecg)[0], self.condition_dim))
        return ecg, ops.cast(conditions, "float32"), *drawn

    def _augmented(self, ecg, drawn):
        if len(drawn) > 1 or tuple(drawn[0].shape[1:]) != (DRAWN,):
            raise ModelError(
                f"Expected (ecg, conditions), or after them (B, {DRAWN}) numbers of "
                f"model.augment.draw. Received besides: {[tuple(one.shape) for one in drawn]}. "
                "Weights and targets are sample_weight and y of fit."
            )
        if self.leads != LEADS:
            raise ModelError(f"Augmentation rotates the standard 12 leads. Received: {self.leads}.")
        return augment(ecg, drawn[0], self.settings["qrs_sample"])

    def _drop_conditions(self, conditions):
        """Hides each condition of each subject with probability `condition_dropout`."""
        rate = self.settings["condition_dropout"]
        if not rate or self._groups is None:
            return conditions
        shape = (ops.shape(conditions)[0], self._groups.shape[0])
        kept = random_rows(keras.random.uniform, shape, self.random) >= rate
        return conditions * ops.matmul(ops.cast(kept, "float32"), self._groups)

    def _standardise(self, ecg):
        """(B, L, T) mV -> (B, I, T) around the mean beat, in units of `scale` and `profile`."""
        if len(self.picked) < len(self.leads):
            ecg = ops.take(ecg, self.picked, axis=1)
        return (ecg - self.mean_beat) / (self.scale * self.profile)

    def _restore(self, decoded):
        """(B, I, T) of the decoder -> (B, L, T) mV."""
        ecg = decoded * (self.scale * self.profile) + self.mean_beat
        return ecg if self._expansion is None else ops.matmul(self._expansion, ecg)

    def adapt(self, ecg: np.ndarray, conditions: Conditions | None = None) -> VAE:
        """Sets mean beat, scale and, with a linear path, its closed-form start from training data.

        Encoder, decoder and noise are set to the conditional probabilistic PCA of the ECGs, see
        `closed_form.linear_start`, and the convolutions start at zero.

        Args:
            ecg: (N, L, T) mV. Above 2,000 beats an even selection of 2,000 is used.
            conditions: of the same subjects.

        Returns:
            The model itself.
        """
        closed_form.adapt(self, *self._checked(ecg, conditions, inputs.typical_of(self.unit)))
        self._before_training()  # what was fitted before was fitted to another network
        return self

    def standardise_latent(self, ecg: np.ndarray, conditions: Conditions | None = None) -> VAE:
        """After training: a latent free of the conditions, of mean 0 and SD 1 over subjects.

        Reconstructions stay what they are; see `closed_form.standardise_latent`.

        Args:
            ecg: (N, L, T) mV, training subjects.
            conditions: of the same subjects.

        Returns:
            The model itself; unchanged with batch normalisation, which has its own scales.
        """
        if not self.settings["batch_normalization"]:
            closed_form.standardise_latent(self, ecg, self._encoded(conditions, len(ecg)))
        return self

    def fit_prior(self, ecg: np.ndarray, conditions: Conditions | None = None) -> VAE:
        """Fits the distribution of latents given conditions that `generate` draws from.

        Args:
            ecg: (N, L, T) mV, training subjects.
            conditions: of the same subjects.

        Returns:
            The model itself.

        Raises:
            ModelError: as `encode`, or a single ECG, of which there is no distribution.
        """
        if len(ecg) < 2:
            raise ModelError(f"Expected 2 ECGs or more to fit a prior to. Received: {len(ecg)}.")
        encoded = self._encoded(conditions, len(ecg))
        self.prior = closed_form.fit_prior(self, ecg, encoded, self.settings["seed"])
        self._prior_is_stale = False
        return self

    def fit_noise(
        self,
        ecg: np.ndarray,
        conditions: Conditions | None = None,
        others: tuple[np.ndarray, Conditions | None] | None = None,
    ) -> VAE:
        """Fits the observation noise of each lead and sample to what the trained model leaves.

        Args:
            ecg: (N, L, T) mV, training subjects. Above 2,000 beats an even selection is used.
            conditions: of the same subjects.
            others: ECGs and conditions of subjects that it was not trained on, such as validation:
                they set the level of the noise, since less is left of what was trained on.

        Returns:
            The model itself; unchanged unless its noise is "per_sample". `fit` forgets the noise
            before it trains further, since the noise itself gives up the QRS: fit it again then.
        """
        if self.settings["noise"] == "per_sample":
            encoded = self._encoded(conditions, len(ecg))
            if others is not None:
                others = others[0], self._encoded(others[1], len(others[0]))
            closed_form.fit_noise(self, ecg, encoded, others, self.settings["seed"])
        return self

    def heads(self) -> list[keras.layers.Layer]:
        """The layers beside the decoder that read the latent; none here."""
        return []

    # --- use ------------------------------------------------------------------------------------

    def encode(
        self, ecg: np.ndarray, conditions: Conditions | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Posterior of the latent: (N, L, T) mV and conditions -> mean (N, Z), log variance (N, Z).

        Raises:
            ModelError: wrong shape or unit, NaN, another number of conditions than of ECGs, or no
                conditions though the model has some and no schema that says what is unknown.
        """
        ecg, encoded = self._checked(ecg, conditions)
        mean, log_var = (np.empty((len(ecg), self.latent_space_dim), np.float32) for _ in range(2))
        for rows, posterior in self._encode_batches(ecg, encoded):
            mean[rows], log_var[rows] = posterior
        return mean, log_var

    def _posterior(self, ecg, encoded):
        return self.encoder([self._standardise(ecg), encoded], training=False)

    def _expected(self, z, encoded):
        return [self._restore(self.decoder([z, encoded], training=False))]

    def decode(self, z: np.ndarray, conditions: Conditions | None = None) -> np.ndarray:
        """Expected ECG: (N, Z) and conditions -> (N, L, T) mV."""
        ecg = np.empty((len(z), *self.ecg_shape), dtype=np.float32)
        done = 0
        for batch in self.decode_batches(z, conditions):
            ecg[done : done + len(batch)] = batch
            done += len(batch)
        return ecg

    def decode_batches(
        self, z: np.ndarray, conditions: Conditions | None = None
    ) -> Iterator[np.ndarray]:
        """As `decode`, for more ECGs than fit in memory: yields (B, L, T) mV, row after row."""
        z = inputs.checked_latent(z, self.latent_space_dim)
        encoded = self._encoded(conditions, len(z))
        for _, [ecg] in self._decode_batches(z, encoded):
            yield ecg

    def reconstruct(
        self, ecg: np.ndarray, conditions: Conditions | None = None, seed: int | None = None
    ) -> np.ndarray:
        """Decodes the posterior mean, or with a `seed` a sample of the posterior: (N, L, T) mV."""
        mean, log_var = self.encode(ecg, conditions)
        if seed is not None:
            noise = np.random.default_rng(seed).standard_normal(mean.shape)
            mean = mean + np.exp(0.5 * log_var) * noise
        return self.decode(mean, conditions)

    def generate(
        self, n: int | None = None, seed: int = 0, noise: bool = False, **conditions
    ) -> np.ndarray:
        """New ECGs at the given conditions: latents from the prior, decoded.

        The prior is that of `fit_prior`, and N(0, I) before that.

        Args:
            n: number of ECGs; by default the length of the conditions given as arrays, or 1.
            seed: the same seed and n give the same draws, which the prior then places where
                subjects of these conditions lie.
            noise: add observation noise, correlated over time and leads as what the model leaves of
                real beats: ECGs as a machine records them, rather than expected ones.
            **conditions: by name, scalars or (n,) arrays. One left out is unknown to the model.

        Returns:
            (n, L, T) mV.

        Raises:
            ConditionError: an unknown name or value.
            ModelError: noise of a model that has none of each sample, no whole number of ECGs, a
                negative seed, a table for n, or a model with conditions and without schema.
        """
        if isinstance(n, inputs.NAMED):
            names = [] if self.schema is None else list(self.schema.names)
            raise ModelError(
                "Expected n, a number of ECGs; conditions go by their names. Received a "
                f"{type(n).__name__}: give **table[{names}] instead of table."
            )
        inputs.check_draws(1 if n is None else n, seed)
        encoded = self._encoded(conditions, n)
        self._warn_of_prior()
        ecg = self.decode(self.prior.sample(encoded, seed), encoded)
        return ecg + self.draw_noise(len(ecg), seed) if noise else ecg

    def draw_noise(self, n: int, seed: int = 0) -> np.ndarray:
        """Observation noise (n, L, T) in mV, see `model.noise.draws`.

        Args:
            n: number of ECGs.
            seed: the same seed and n give the same noise.

        Raises:
            ModelError: the noise of the model is not "per_sample", no whole number of ECGs, or a
                negative seed.
        """
        inputs.check_draws(n, seed)
        ecg, done = np.empty((n, *self.ecg_shape), np.float32), 0
        for noise in self.noise_batches(n, seed):
            ecg[done : done + len(noise)] = noise
            done += len(noise)
        return ecg

    def noise_batches(self, n: int, seed: int = 0) -> Iterator[np.ndarray]:
        """As `draw_noise`, for more ECGs than fit in memory: yields (B, L, T) mV, row after row."""
        if self.settings["noise"] != "per_sample":
            raise ModelError(
                'Noise that looks like that of recordings needs a model of noise="per_sample". '
                f"Received: noise={self.settings['noise']!r}."
            )
        parts = (np.log(self.noise_sd_uv / 1000), self.noise_leads, self.noise_time)
        fitted = observation.Fitted(*map(ops.convert_to_numpy, parts))
        return (
            noise if self._expansion is None else self._expansion @ noise
            for _, noise in observation.draws(fitted, n, seed)
        )

    def bound(
        self, ecg: np.ndarray, conditions: Conditions | None = None, seed: int = 0
    ) -> np.ndarray:
        """Evidence lower bound of each ECG, at a sample of its posterior: (N,) nats.

        A density of amplitudes in units of `scale`, so that it is the same in mV and uV. Bounds of
        models of the same leads that were adapted to the same ECGs compare, whatever their noise.

        Args:
            ecg: (N, L, T) mV.
            conditions: of the same subjects.
            seed: of the samples.

        Returns:
            (N,) nats, the KL term to N(0, I) taken off; NaN under "mse".

        Raises:
            ModelError: as `encode`.
        """
        bound = np.full(len(ecg), math.nan)
        if self.settings["noise"] == "mse":
            return bound
        mean, log_var = self.encode(ecg, conditions)
        noise = np.random.default_rng(seed).standard_normal(mean.shape)
        z, start = mean + np.exp(0.5 * log_var) * noise, 0
        parts = self._log_noise(), self.profile, self.scale * self.profile
        log_noise, profile, unit = map(ops.convert_to_numpy, parts)
        for decoded in self.decode_batches(z, conditions):
            rows = slice(start, start + len(decoded))
            rest = np.asarray(ecg[rows]).reshape(decoded.shape) - decoded
            rest = (rest[:, self.picked] / unit).astype(np.float32)
            loss = observation.negative_log_likelihood(rest, log_noise, self.settings["noise"])
            bound[rows], start = -ops.convert_to_numpy(loss), rows.stop
        kl = ops.convert_to_numpy(gaussian_kl(mean, log_var)).sum(axis=1)
        return bound - kl - np.log(profile * np.ones(self.mean_beat.shape)).sum()

    def counterfactual(
        self, ecg: np.ndarray, conditions: Conditions | None = None, **changes
    ) -> np.ndarray:
        """The same subjects under other conditions: z from the ECG, decoded with `changes`.

        Args:
            ecg: (N, L, T) mV.
            conditions: what is true of the subjects.
            **changes: by name, scalars or (N,) arrays.

        Returns:
            (N, L, T) mV.
        """
        if self.schema is None:
            raise ModelError("Counterfactuals need a model with a schema of named conditions.")
        mean, _ = self.encode(ecg, conditions)
        before = self._encoded(conditions, len(mean))
        changed = self.schema.encode(changes, len(mean))
        columns = np.repeat([name in changes for name in self.schema.names], self.schema.widths)
        return self.decode(mean, np.where(columns, changed, before).astype(np.float32))

    def traverse(
        self, dimension: int, values: Sequence[float], z: np.ndarray | None = None, **conditions
    ) -> np.ndarray:
        """ECGs along one latent dimension: (V,) values -> (V, L, T) mV; other dimensions as in z.

        Args:
            dimension: 0 .. Z - 1.
            values: of that dimension.
            z: (Z,) starting point, by default the prior mean 0.
            **conditions: by name, the same for all.
        """
        last, whole = self.latent_space_dim - 1, isinstance(dimension, (int, np.integer))
        if not (whole and 0 <= dimension <= last):
            raise ModelError(f"Expected a dimension of 0 to {last}. Received: {dimension!r}.")
        if np.ndim(values) != 1:
            raise ModelError(f"Expected a list of values for the dimension. Received: {values!r}.")
        start = np.zeros(self.latent_space_dim) if z is None else np.asarray(z, np.float64)
        if start.shape != (self.latent_space_dim,):
            raise ModelError(f"Expected z of {self.latent_space_dim} numbers. Got: {start.shape}.")
        path = np.tile(start, (len(values), 1))
        path[:, dimension] = values
        return self.decode(path, self._encoded(conditions, len(path)))

    def interpolate(
        self, ecg: np.ndarray, conditions: Conditions | None = None, steps: int = 8
    ) -> np.ndarray:
        """From the first to the second of two ECGs (2, L, T), in latents and conditions.

        Returns:
            (steps, L, T) mV; the ends are the reconstructions of the two.
        """
        if not (isinstance(steps, (int, np.integer)) and steps >= 1):
            raise ModelError(f"Expected steps of 1 or more. Received: {steps!r}.")
        mean, _ = self.encode(ecg, conditions)
        if len(mean) != 2:
            raise ModelError(f"Expected two ECGs to interpolate between. Received: {len(mean)}.")
        encoded = self._encoded(conditions, len(mean))
        share = np.linspace(0, 1, steps)[:, None]
        return self.decode(
            (1 - share) * mean[:1] + share * mean[1:],
            ((1 - share) * encoded[:1] + share * encoded[1:]).astype(np.float32),
        )

    @property
    def timing(self) -> dict[str, float]:
        """`sampling_rate` and `qrs_sample`, for whatever measures in milliseconds from the QRS."""
        return {name: self.settings[name] for name in ("sampling_rate", "qrs_sample")}

    @property
    def unit(self) -> str:
        """Of the ECGs: "mV", or another one of `data.units`."""
        return self.settings["unit"]

    @property
    def noise_sd_uv(self) -> np.ndarray:
        """(I, T) scale of the observation noise in microvolts; NaN under "mse"."""
        if self.settings["noise"] == "mse":
            return np.full(self.mean_beat.shape, math.nan)
        sd = 1000 * self.scale * self.profile * ops.exp(self._log_noise())
        return ops.convert_to_numpy(sd * ops.ones(self.mean_beat.shape))

    @property
    def noise_uv(self) -> float:
        """Scale of the observation noise in microvolts, its root mean square over samples."""
        return float(np.sqrt(np.square(self.noise_sd_uv, dtype=np.float64).mean()))

    def _encoded(self, conditions: Conditions | None, n: int | None) -> np.ndarray:
        return inputs.encoded_conditions(conditions, n, self.schema, self.condition_dim)

    def _checked(
        self, ecg: np.ndarray, conditions: Conditions | None, typical: float | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """ECGs, as large as the model's own or as `typical`, and their encoded conditions."""
        typical = self._typical() if typical is None else typical
        ecg = inputs.checked_ecg(ecg, self.ecg_shape, typical, self.unit)
        return ecg, self._encoded(conditions, len(ecg))

    def _typical(self) -> float:
        """Peak-to-peak amplitude of the ECGs that the model was adapted to."""
        beat = ops.convert_to_numpy(self.mean_beat)
        if not beat.any():
            return inputs.typical_of(self.unit)
        return float(np.ptp(beat, axis=1).max() + 2 * self.scale)

    # --- files ----------------------------------------------------------------------------------

    def get_config(self) -> dict:
        """Constructor arguments as plain values."""
        return self.settings | {
            "schema": None if self.schema is None else self.schema.to_dict(),
            "prior": self.prior.to_dict(),
        }

    def save(self, filepath: str | Path, overwrite: bool = True, **keywords) -> None:
        """Writes a folder with `parameters.json` and `model.weights.h5`, all that `load` needs.

        A path ending in .keras is written in Keras's own format. A subclass of your own is saved
        too if `get_config` returns all that its `__init__` takes; `load` it by its own name.

        Raises:
            ModelError: a model is there, and `overwrite` is false; the path ends as that of another
                kind of file does; or what is asked for could not be loaded again.
        """
        self._warn_of_prior()  # whoever loads it is not told
        if str(filepath).endswith(".keras"):
            super().save(filepath, overwrite=overwrite, **keywords)
            return
        if keywords:
            raise ModelError(f"save: {', '.join(keywords)} goes with a path ending in .keras only.")
        write_model(self, filepath, overwrite)

    def export(self, filepath: str | Path, format: str = "tf_saved_model", **keywords) -> None:
        """As `keras.Model.export`: a program of (ecg (B, L, T) mV, conditions (B, C)), as `call`.

        What only Python knows stays behind: names of leads and conditions, scaling, the prior.

        Raises:
            ModelError: the backend is not TensorFlow.
        """
        if keras.backend.backend() != "tensorflow":
            raise ModelError(
                "export needs KERAS_BACKEND=tensorflow. Use save(), which keeps all of the model."
            )
        shapes = (None, *self.ecg_shape), (None, self.condition_dim)
        signature = [keras.InputSpec(shape=shape, dtype="float32") for shape in shapes]
        super().export(str(filepath), format, **{"input_signature": [signature]} | keywords)

    @classmethod
    def load(cls, folder: str | Path) -> VAE:
        """The model that `save` wrote, or that of a run: see `model.saving.read_model`."""
        return read_model(folder, cls)

    load_published = staticmethod(load_published)


def gaussian_kl(mean, log_var):
    """KL of N(mean, exp(log_var)) to N(0, 1) in nats, elementwise: (B, Z) -> (B, Z)."""
    return 0.5 * (ops.square(mean) + ops.exp(log_var) - 1 - log_var)


def weighted_mean(values, weight):
    """Mean of (B,) values with (B,) weights."""
    return ops.sum(values * weight) / ops.maximum(ops.sum(weight), 1e-9)


def _place_of_qrs(qrs_sample: int | None, sampling_rate: float, shape: Sequence[int]) -> int:
    """The sample of the QRS: the given one, or 300 ms from the first.

    That is the last sample where the beat ends before 300 ms, also of models that were saved with
    the 300 ms then: they have always kept the last sample in place.

    Args:
        qrs_sample: the given one, or None.
        sampling_rate: Hz.
        shape: (L, T) of an ECG.

    Raises:
        ModelError: no rate, or no number of a sample.
    """
    if not 0 < sampling_rate < math.inf:
        raise ModelError(f"sampling_rate: expected Hz above 0. Received: {sampling_rate}.")
    default = default_qrs_sample(sampling_rate)
    if qrs_sample is None or qrs_sample == default:
        return min([default, *(int(size) - 1 for size in shape[1:2])])
    if qrs_sample != int(qrs_sample):
        raise ModelError(f"qrs_sample: expected the number of a sample. Received: {qrs_sample}.")
    return int(qrs_sample)
