r"""Makes `trained/<name>/` of finished runs: the model, its card, and a few beats to test it by.

    for S in 0 1 2; do python train.py --preset ptbxl --data.path FOLDER --run ptbxl_seed$S \
        --training.seed $S --evaluation.seed $S; done
    python -m benchmarks.ship ptbxl FOLDER

The model is that of seed 0; the numbers on the card are of all three seeds. Nothing of a subject is
written: the model holds weights, the prior, and how conditions are scaled.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.results import PTBXL, real_table
from training.run_folder import RUNS, TRAINED, write_text

CARD = """# Model card: `{name}`

A conditional VAE of 12-lead median beats (`vae.VAE`), trained on real ECGs. It generates, encodes,
reconstructs and changes beats for given age, sex and BMI, any of which may be unknown.

```python
from vae import VAE

vae = VAE.load("trained/{name}")
ecg = vae.generate(n=4, seed=0, age=63, sex="female", bmi=31)  # (4, 12, 400) mV, 500 Hz
```

## What it was trained on

PTB-XL 1.0.3: {recordings} of its 21,799 records, {patients} patients, recorded {years} in Germany,
about half of them normal ECGs. Folds 1 to 8 trained it ({train} records). Fold 9 ({validation})
chose its size, noise, augmentation and epoch. Fold 10 ({test}) is what it is judged by below;
earlier states of the code were judged by it too.

Known of the training records: age {age}; sex {sex}; BMI {bmi}.

The data are licensed [CC BY 4.0](https://creativecommons.org/licenses/by/4.0/): Wagner P,
Strodthoff N, Bousseljot RD, Samek W, Schaeffter T. *PTB-XL, a large publicly available
electrocardiography dataset.* PhysioNet 2022,
[doi 10.13026/kfzx-aw45](https://doi.org/10.13026/kfzx-aw45); Sci Data 2020,
[doi 10.1038/s41597-020-0495-6](https://doi.org/10.1038/s41597-020-0495-6). Name them where you use
this model. The model itself has the licence of the code.

## How good it is

Fold 10, mean of three seeds (least to most). "Real" is what one half of the real test patients gets
against the other, real ECGs in place of generated ones, or the baseline that is named:

{table}

[How to read them](../../docs/results.md).

## What it must not be used for

- Diagnosis, or any decision on a patient. A counterfactual says what the training records have in
  common, not what would happen to somebody.
- As a stand-in for kinds of ECG that it saw seldom: pacing, rare blocks, children.
- Statements on BMI without care: it is known of {bmi_share:.0%} of the training records.
- As anonymous data: whoever has the model can tell training patients from others a little better
  than by chance (reconstruction attack above).

## How it was made

```bash
for S in 0 1 2; do python train.py --preset ptbxl --data.path FOLDER --run ptbxl_seed$S \\
    --training.seed $S --evaluation.seed $S; done
python -m benchmarks.ship ptbxl FOLDER
```

`generated.npz` holds the beats of the call above, by which a test tells whether the model still is
the same.
"""

EXAMPLE = {"n": 4, "seed": 0, "age": 63, "sex": "female", "bmi": 31}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", help="of the folder in trained/")
    parser.add_argument("data", type=Path, help="folder of PTB-XL")
    given = parser.parse_args()
    from data.readers.ptbxl import load_ptbxl
    from vae import VAE

    folder = TRAINED / given.name
    folder.mkdir(parents=True, exist_ok=True)
    VAE.load(RUNS / PTBXL[0]).save(folder)  # without the state of the optimiser
    np.savez_compressed(folder / "generated.npz", ecg=VAE.load(folder).generate(**EXAMPLE))
    cohort = load_ptbxl(given.data)
    split = cohort.split(by_fold=True)
    known = split.train.subjects
    dates = pd.read_csv(given.data / "ptbxl_database.csv", usecols=["ecg_id", "recording_date"])
    dates = dates[dates["ecg_id"].astype(str).isin(cohort.subjects["subject_id"].astype(str))]
    years = pd.to_datetime(dates["recording_date"]).dt.year
    card = CARD.format(
        name=given.name,
        recordings=f"{len(cohort):,}",
        patients=f"{cohort.subjects['patient_id'].nunique():,}",
        years=f"{years.min()} to {years.max()}",
        train=f"{len(split.train):,}",
        validation=len(split.validation),
        test=len(split.test),
        age=f"of {known['age'].notna().sum():,} ({known['age'].median():.0f} in the median, "
        f"{known['age'].min():.0f} to {known['age'].max():.0f})",
        sex=f"of {known['sex'].notna().sum():,} "
        f"({(known['sex'].dropna() == 'female').mean():.0%} women)",
        bmi=f"of {known['bmi'].notna().sum():,} ({known['bmi'].median():.1f} in the median)",
        bmi_share=known["bmi"].notna().mean(),
        table=real_table(),
    )
    write_text(folder / "CARD.md", card)
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    print(f"{folder}: {size:.1f} MB.")


if __name__ == "__main__":
    main()
