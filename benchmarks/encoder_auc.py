"""How well an encoder's features separate tumour from the rest, held out by patient.

    python benchmarks/encoder_auc.py PATCHES.csv [--encoder NAME_OR_FILE ...] [--patch-px 50 100]

PATCHES.csv as for `histofast extract --patches`, labels 0 and 1. A logistic regression (L2 0.1,
standardised features) is trained on four fifths of the bags and scored on the rest, five times; the
figure is the mean AUC. Patches smaller than asked for are interpolated linearly.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy.optimize import minimize
from scipy.stats import rankdata

import histofast
from histofast.patches import read_patch_table, stream_bag

FOLDS, L2 = 5, 0.1


def auc(score, label):
    rank, positive = rankdata(score), label.sum()
    return (rank[label == 1].sum() - positive * (positive + 1) / 2) / (
        positive * (len(label) - positive)
    )


def fitted(x, y):
    def loss(w):
        z = x @ w[:-1] + w[-1]
        residual = 1 / (1 + np.exp(-z)) - y
        value = np.logaddexp(0, -z * (2 * y - 1)).mean() + L2 / 2 * (w[:-1] @ w[:-1])
        return value, np.append(x.T @ residual / len(y) + L2 * w[:-1], residual.mean())

    start = np.zeros(x.shape[1] + 1)
    return minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 300}).x


def held_out_auc(features, label, fold):
    scores = []
    for k in range(FOLDS):
        train = fold != k
        mean, spread = features[train].mean(0), features[train].std(0) + 1e-9
        w = fitted((features[train] - mean) / spread, label[train])
        scores.append(auc((features[~train] - mean) / spread @ w[:-1], label[~train]))
    return float(np.mean(scores))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("patches", type=Path)
    parser.add_argument("--encoder", nargs="+", default=["densenet121-t2"])
    parser.add_argument("--patch-px", nargs="+", type=int, default=[50, 100, 200])
    arguments = parser.parse_args()
    bags = read_patch_table(arguments.patches)
    fold_of = np.random.default_rng(0).permutation(len(bags)) % FOLDS
    for name in arguments.encoder:
        with histofast.load_encoder(name) as encoder:
            for patch_px in arguments.patch_px:
                features, label, fold = [], [], []
                for bag, k in zip(bags, fold_of, strict=True):
                    batches = stream_bag(bag, patch_px=patch_px, allow_upsampling=True)
                    features += [encoder.encode(batch.pixels) for batch in batches]
                    label += map(int, bag.labels)
                    fold += [k] * len(bag)
                score = held_out_auc(
                    np.concatenate(features).astype(float), np.array(label), np.array(fold)
                )
                print(f"{name}, {patch_px} px: AUC {score:.3f} ({len(label)} patches)", flush=True)


if __name__ == "__main__":
    main()
