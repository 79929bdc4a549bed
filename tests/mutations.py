"""Whether the tests would notice: one-line faults in loss, split, scaling, batches and checkpoint.

`python -m tests.mutations` puts each fault into a copy of the project, runs the tests that must see
it, and prints which faults were killed and which survived; numbers after the command choose some.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.places import ROOT

COX, LOSS, HEAD = "model/test_cox.py", "model/test_vae.py", "model/test_vae_prediction.py"
NOISE, WARP = "model/test_noise.py", "model/test_warp.py"
PRIOR, START = "model/test_prior.py", "model/test_closed_form.py"
COPIES = 2  # of the project, which share the faults
ONE_THREAD = {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1"}
CHECKPOINT, BATCHES = "training/test_checkpoint.py", "training/test_batches.py"
CONDITIONS, COHORT = "data/test_conditions.py", "data/test_cohort.py"


class Mutation(NamedTuple):
    """`old`, which stands once in `file`, becomes `new`; `tests` is the file that must fail."""

    file: str
    old: str
    new: str
    tests: str


def _of(file, tests, *changes):
    return [Mutation(file, old, new, tests) for old, new in changes]


MUTATIONS = [
    *_of(
        "model/cox.py",
        COX,
        # the loss
        (
            "comparable = ops.expand_dims(time, 0) >= ops.expand_dims(time, 1)",
            "comparable = ops.expand_dims(time, 0) > ops.expand_dims(time, 1)",
        ),
        ("simultaneous = ops.logical_and(simultaneous, same)", "pass"),
        ("event = ops.logical_and(event, weight > 0)", "pass"),
        ("ops.sum(ops.tril(tied, -1), axis=1)", "ops.sum(ops.tril(tied), axis=1)"),
        ("count = count - tied *", "count = count + tied *"),
        ("shifted, 0)) * ops.expand_dims(weight, 0)", "shifted, 0))"),
        ("log_denominator, 0), axis=1) / deaths", "log_denominator, 0), axis=1)"),
        ("ops.where(event, weight * (mean", "ops.where(event, (mean"),
        # the whole split, the baseline, the curves
        ("np.log1p(-share *", "np.log1p(share *"),
        ("np.add.reduceat(np.exp(-log_denominator), first)", "np.exp(-log_denominator[first])"),
        ('side="right")', 'side="left")'),
        ("np.searchsorted(time[order], times)]", 'np.searchsorted(time[order], times, "right")]'),
        # the batches
        ("np.roll(turn, -epoch * left_out)", "np.roll(turn, -left_out)"),
        ("default_rng([seed, epoch + 1])", "default_rng([seed, 1])"),
        ("np.nonzero(nth > 1)", "np.nonzero(nth > 0)"),
        ("np.flatnonzero(~has_event.any(axis=1))", "np.flatnonzero(~has_event.all(axis=1))"),
        ("has_event.sum(axis=1)[batch])", "-has_event.sum(axis=1)[batch])"),
        (
            "rows[batch, column], rows[empty, 0] = rows[empty, 0], rows[batch, column]",
            "rows[batch, column] = rows[empty, 0]",
        ),
    ),
    *_of(
        "vae.py",
        LOSS,
        # the loss
        ("z = mean + ops.exp(0.5 * log_var) * noise", "z = mean + ops.exp(log_var) * noise"),
        ("reconstruction + self.kl_weight * penalty", "reconstruction + penalty"),
        ("ops.maximum(mean_kl, free_bits)", "ops.minimum(mean_kl, free_bits)"),
        ("loss = loss + regularisation", "pass"),
        ('reconstruction + self.settings["kl_weight"] *', "reconstruction + self.kl_weight *"),
        ("return self.log_noise - ops.log(self.scale)", "return self.log_noise"),
        ("ops.exp(log_var) - 1 - log_var)", "ops.exp(log_var) - 1 + log_var)"),
        ("ops.sum(values * weight) / ops.max", "ops.sum(values) / ops.max"),
        # the scaling
        ("return (ecg - self.mean_beat) / (", "return ecg / ("),
        (
            "ecg = decoded * (self.scale * self.profile) + self.mean_beat",
            "ecg = decoded + self.mean_beat",
        ),
    ),
    *_of(
        "model/noise.py",
        LOSS,
        ("ops.mean(ops.square(rest), axis=(1, 2))", "ops.sum(ops.square(rest), axis=(1, 2))"),
        ("(log_sd + 0.5 * math.log(2 * math.pi))", "(log_sd + 0.5 * math.log(math.pi))"),
        ("half = 0.5 * (FREEDOM + d)", "half = 0.5 * d"),
    ),
    *_of(
        "model/noise.py",
        NOISE,
        ("ops.square(rest) * ops.exp(-2 * log_sd)", "ops.square(rest) * ops.exp(-1 * log_sd)"),
        ("distance = math.sqrt(2) * ops.sum(size", "distance = ops.sum(size"),
        ("+ ROUNDED**2) - ROUNDED", ")"),
        ("d * math.log(math.sqrt(2) * FREEDOM)", "d * math.log(2 * FREEDOM)"),
        ("log_sd = ops.mean(log_sd)", "log_sd = ops.max(log_sd)"),
        ("half * ops.log1p(distance / FREEDOM)", "half * ops.log1p(distance)"),
        ("0.5 * d * math.log(FREEDOM * math.pi)", "0.5 * d * math.log(math.pi)"),
        ("variance *= _level(", "_level("),
        ("weight = (FREEDOM + size) /", "weight = size * 0 + 1 + 0 *"),
        ("np.maximum(variance, quietest**2)\n        # Their", "variance\n        # Their"),
        ("fitted.leads @ white @ fitted.time.T", "white"),
        ("yield rows, level[:, None, None] *", "yield rows,"),
    ),
    *_of(
        "vae.py",
        NOISE,
        ("return bound - kl - np.log(", "return bound - np.log("),
        (
            "rest = (rest[:, self.picked] / unit)",
            "rest = (rest[:, self.picked])",
        ),
        ("return ecg + self.draw_noise(len(ecg), seed) if noise else ecg", "return ecg"),
    ),
    *_of(
        "model/warp.py",
        WARP,
        ("late = late - late[:, at : at + 1]", "late = late + 0"),
        ("at = self.qrs_sample", "at = round(3 / 8 * (last + 1))"),
        ("(deviation + self.mean_beat * inverse) / inverse", "deviation / inverse"),
        ("ops.expm1(log_speed)", "log_speed"),
        ("FASTEST * ops.tanh(", "FASTEST * ("),
        ("left + share * (right - left)", "left"),
        ("index + first[:, None]", "index"),
    ),
    *_of(
        "model/prior.py",
        PRIOR,
        ("self.scales[size, None] * drawn", "drawn"),
        ("weights, self.scales**2, (self", "weights, self.scales, (self"),
        ("0.5 * squared / self.scales**2", "0.5 * squared / self.scales"),
        ("share[:, k] / SCALES**2", "share[:, k]"),
        ("+ OWN * middle) / (count[:, None] + OWN)", "+ 1e9 * middle) / (count[:, None] + 1e9)"),
        ("cross - cross.T", "cross"),
        ("np.divmod(random.choice(", "np.divmod(-1 - random.choice("),
        ("(u**2 - 1) / 2, log_sd)", "(u**2 - 1) / 2)"),
        ("np.where(worse, step / 2, step)", "step"),
    ),
    *_of(
        "model/closed_form.py",
        START,
        ("weights = precision / precision.mean()", "weights = precision"),
        ("np.sqrt(weights / n)", "np.sqrt(1 / n)"),
        ("(of_rest @ regression.T) @ conditions.T", "0"),
        ("(scores**2).mean(axis=0)", "(scores**2).mean(axis=0)[::-1]"),
        ("max(0.1 * np.median(error), 1e-8)", "1e-8"),
        ("(n - 1) // 2, d)", "n - 1, d)"),
    ),
    *_of(
        "model/closed_form.py",
        LOSS,
        ("mean_beat = x.mean(axis=0)", "mean_beat = np.median(x, axis=0)"),
        ("np.sqrt((x**2).mean())", "np.abs(x).mean()"),
        ("np.maximum(found.variances - residual, 1e-3", "np.maximum(found.variances, 1e-3"),
        ("encode = loadings / (signal**2 + residual)", "encode = loadings / (signal**2)"),
        ("np.log(residual / (signal**2 + residual))", "np.log(residual / signal**2)"),
        ("mean.var(axis=0) + np.exp(log_var).mean(axis=0)", "mean.var(axis=0)"),
        ("encoded.T @ encoded + np.eye(", "encoded.T @ encoded + 0 * np.eye("),
        ("n_conditions :] -= effect", "n_conditions :] += effect"),
        ("assign((layer.bias - centre) / sd)", "assign(layer.bias / sd)"),
        ("bias.assign(bias - 2 * np.log(sd))", "bias.assign(bias - np.log(sd))"),
        ("assign(layer.bias + centre @ kernel[: len(sd)])", "assign(layer.bias)"),
        ("kernel[len(sd) :] += effect @ kernel[: len(sd)]", "pass"),
        ("kernel[: len(sd)] *= sd[:, None]", "kernel[: len(sd)] /= sd[:, None]"),
    ),
    *_of(
        "model/inputs.py",
        LOSS,
        # the unit
        ("expected / OTHER_UNIT < received", "0 < received"),
        ("received < expected * OTHER_UNIT", "0 < received"),
        ("np.ptp(chunk, axis=2).max(axis=1)", "np.ptp(chunk, axis=2).max()"),
    ),
    *_of(
        "vae_prediction.py",
        HEAD,
        ("y[:, 0], y[:, 1], self", "y[:, 1], y[:, 0], self"),
        ('self.settings["ties"], weight)', 'self.settings["ties"])'),
        ("ops.sum(terms) / ops.maximum(ops.sum(weight), 1e-9)", "ops.mean(terms)"),
        ("(target - self.target_mean) / self.target_sd", "target - self.target_mean"),
        ('weighted = self.settings["task_weight"] * loss', "weighted = loss"),
        ("share = ops.abs(weighted) /", "share = ops.abs(loss) /"),
    ),
    *_of(
        "data/cohort.py",
        COHORT,
        ("np.where(fold == 10, 2,", "np.where(fold == 8, 2,"),
        ("np.where(fold == 9, 1, 0))", "np.where(fold == 9, 0, 0))"),
        ("if (parts_of > 1).any():", "if (parts_of > 2).any():"),
        ("validation + test < 1):", "validation + test <= 1):"),
        ("names = np.sort(names)", "pass"),
        ("default_rng(seed).permutation(len(names))", "default_rng(0).permutation(len(names))"),
        ("max(1, round(len(names) * share))", "round(len(names) * share)"),
        ("order[n_test : n_test + n_validation]", "order[n_test - 1 : n_test + n_validation]"),
        ("pd.Index(names).get_indexer(patients)", "patients.index % len(names)"),
    ),
    *_of(
        "data/conditions.py",
        CONDITIONS,
        ("(values < low) | (values > high)", "(values <= low) | (values > high)"),
        ("float(np.nanmean(values))", "float(np.nanmedian(values))"),
        ("float(np.nanstd(values))", "float(np.nanstd(values, ddof=1))"),
        ("sd if sd > 1e-12 * abs(mean) else 1.0", "sd if sd > 0 else 1.0"),
        ("np.where(known, 2 * codes - 1, 0)", "np.where(known, codes, 0)"),
        ("codes[:, None] == np.arange(width)", "codes[:, None] <= np.arange(width)"),
        ("np.where(known, (codes - mean) / sd, 0)", "np.where(known, codes / sd - mean, 0)"),
        ("np.stack([value, known], axis=1)", "np.stack([known, value], axis=1)"),
    ),
    *_of(
        "training/checkpoint.py",
        CHECKPOINT,
        ('sign = -1 if watch == "val_c_index" else 1', "sign = 1"),
        ("[*self.model.variables, *self.model.optimizer.variables]", "[*self.model.variables]"),
        ('saved[f"best{number}"]', 'saved[f"last{number}"]'),
        ("if before not in (", "if False and before not in ("),
        ("= history, best", "= history, [weight.numpy() for weight in model.weights]"),
        ("- 1 - self.best_epoch if", "- self.best_epoch if"),
        ("waited >= self.patience", "waited > self.patience"),
        ("Epoch {self.best_epoch + 1} is", "Epoch {len(self.history)} is"),
        ("[keras.ops.convert_to_numpy(weight) for weight in self", "[weight for weight in self"),
        (
            "number, weight in enumerate(self.best)",
            "number, weight in enumerate(self.model.weights)",
        ),
        ('partial = self.path.with_name("partial.npz")', "partial = self.path"),
    ),
    *_of(
        "training/batches.py",
        BATCHES,
        ("return self.target[:, 1]", "return self.target[:, 0]"),
        ("batch_rows(self.samples.event,", "batch_rows(0 * self.samples.event,"),
        ("rows = rows[..., ours]", "pass"),
        ("(rows + self.first)", "rows"),
        ("[one[ours] for one in drawn]", "[one[: rows.shape[-1]] for one in drawn]"),
        ("self.augmentation, rng)", "1.0, rng)"),
        ("number * rows // parts, (", "number * (rows // parts), ("),
        ("np.concatenate(parts)", "np.concatenate(parts[::-1])"),
        ("fits = in_memory and sum", "fits = sum"),
        ("(rows < len(inputs[0]))", "(rows <= len(inputs[0]))"),
        ("- 1)[ours], weight[ours]", "- 1)[ours], weight[: len(weight[ours])]"),
        ("np.stack(targets)", "np.stack(targets[::-1])"),
    ),
]


def mutated(mutation, root=ROOT):
    """The text of the file with the fault in it."""
    text = (root / mutation.file).read_text("utf-8")
    assert text.count(mutation.old) == 1, f"{mutation.file}: {mutation.old!r} is not there once"
    return text.replace(mutation.old, mutation.new)


# Waits for lines of file names, and runs each with pytest in a process forked from one that has
# imported TensorFlow, but nothing of the project. An answer is what pytest ended with.
SERVER = """
import os, sys
import pytest, tensorflow, keras, pandas, scipy.stats, matplotlib.pyplot, lifelines

for line in sys.stdin:
    child = os.fork()
    if not child:
        sys.path.insert(0, os.getcwd())
        os.dup2(2, 1)
        code = 3  # pytest's own for what is no failure of a test
        try:
            options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider"]
            code = pytest.main([*options, *line.split()])
        finally:
            os._exit(code)
    print("ended with", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Copy:
    """A copy of the project in which faults can be tried one after the other."""

    def __init__(self, root):
        ignored = shutil.ignore_patterns(".*", "__pycache__", "runs", "cache")
        shutil.copytree(ROOT, root, ignore=ignored)
        self.root = root
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            cwd=root,
            # Two texts of one length within one second: compiled code would be taken for the new's.
            env={**os.environ, **ONE_THREAD, "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def tests_pass(self, files):
        print(*(f"tests/{file}" for file in files), file=self.server.stdin, flush=True)
        code = int(self.server.stdout.readline().removeprefix("ended with "))
        assert code in (0, 1, 2), f"pytest ended with {code}"  # 2: on collection
        return code == 0

    def sees(self, mutation):
        """Whether the tests fail with this fault."""
        original = (self.root / mutation.file).read_bytes()
        (self.root / mutation.file).write_text(mutated(mutation, self.root), "utf-8")
        passed = self.tests_pass([mutation.tests])
        (self.root / mutation.file).write_bytes(original)
        return not passed


def main(chosen):
    chosen = chosen or range(len(MUTATIONS))
    survived, waiting = [], deque(chosen)

    def work(copy):
        while waiting:
            number = waiting.popleft()
            mutation = MUTATIONS[number]
            seen = copy.sees(mutation)
            survived.extend([] if seen else [number])
            verdict = "killed" if seen else "SURVIVED"
            print(f"{number:3d} {verdict:8}  {mutation.file}: {mutation.new.strip()}", flush=True)

    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(COPIES) as pool:
        copies = [Copy(Path(scratch) / f"copy{number}" / "project") for number in range(COPIES)]
        files = sorted({MUTATIONS[number].tests for number in chosen})
        assert copies[0].tests_pass(files), f"{files} fail as they are"
        list(pool.map(work, copies))
        for copy in copies:
            copy.server.stdin.close()
            copy.server.wait()
    print(f"{len(chosen) - len(survived)} of {len(chosen)} killed; survived: {sorted(survived)}")
    return bool(survived)


if __name__ == "__main__":
    sys.exit(main([int(number) for number in sys.argv[1:]]))
