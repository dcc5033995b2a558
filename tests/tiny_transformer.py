"""A vision transformer as an encoder file, without torch: random weights, outliers put in by hand.

`OUTLIERS` channels of every norm reach 60 times as far as the others, as in trained networks; the
weights that read them are small accordingly, so that they count as much as others.
"""

from __future__ import annotations

import numpy as np

from histofast import encoders, graphs

PX, PATCH, WIDTH, HEADS, BLOCKS, INNER = 32, 8, 24, 3, 2, 64
TOKENS = (PX // PATCH) ** 2 + 1
OUTLIERS, FACTOR = (3, 17), 60.0
PRODUCTS = 6 * BLOCKS  # queries, keys, values, out, two of the MLP


def write_transformer(path, *, seed=0, outliers=True):
    """Write the encoder: separate queries, keys and values, so that three products read one norm."""
    rng = np.random.default_rng(seed)
    graph = graphs.PixelGraph(mean=(0.7, 0.5, 0.6), std=(0.2, 0.25, 0.2))

    def constant(values, name):
        return graph.constant(np.asarray(values, np.float32), name=name)

    def linear(x, inputs, outputs, name, *, behind_norm=False):
        weight = rng.normal(size=(inputs, outputs)) / np.sqrt(inputs)
        if behind_norm and outliers:
            weight[list(OUTLIERS)] /= FACTOR
        x = graph.add("MatMul", [x, constant(weight, f"{name}.weight")], name=f"{name}.product")
        return graph.add(
            "Add", [x, constant(rng.normal(size=outputs) / 4, f"{name}.bias")], name=name
        )

    def norm(x, name):
        weight = rng.uniform(0.5, 1.5, WIDTH)
        if outliers:
            weight[list(OUTLIERS)] *= FACTOR
        weights = [constant(weight, f"{name}.weight"), zeros]
        return graph.add("LayerNormalization", [x, *weights], name=name, axis=-1)

    def heads(x, name):
        x = graph.add("Reshape", [x, split], name=f"{name}.split")
        return graph.add("Transpose", [x], name=f"{name}.heads", perm=(0, 2, 1, 3))

    zeros = constant(np.zeros(WIDTH), "zeros")  # the bias of all norms
    split = graph.constant(np.array([0, TOKENS, HEADS, -1]), name="split")
    joined = graph.constant(np.array([0, TOKENS, -1]), name="joined")
    weight = constant(rng.normal(size=(WIDTH, 3, PATCH, PATCH)) / PATCH / 2, "embed.weight")
    x = graph.add(
        "Conv",
        [graph.standardised, weight],
        name="embed",
        strides=[PATCH] * 2,
        kernel_shape=[PATCH] * 2,
    )
    flat = graph.constant(np.array([0, WIDTH, -1]), name="flat")
    x = graph.add(
        "Transpose", [graph.add("Reshape", [x, flat], name="maps")], name="tokens", perm=(0, 2, 1)
    )
    first = graph.constant(np.array([0]), name="first")
    last = graph.constant(np.array([1]), name="last")
    ones = graph.constant(np.array([1]), name="axis")
    one = graph.add("Slice", [x, first, last, ones], name="one")  # of the right batch
    cls = graph.add(
        "Add",
        [graph.add("Sub", [one, one], name="none"), constant(rng.normal(size=WIDTH), "cls")],
        name="class",
    )
    x = graph.add("Concat", [cls, x], name="all", axis=1)
    x = graph.add(
        "Add", [x, constant(rng.normal(size=(TOKENS, WIDTH)) / 4, "positions")], name="placed"
    )
    for i in range(BLOCKS):
        y = norm(x, f"{i}.norm1")
        q, k, v = (
            heads(linear(y, WIDTH, WIDTH, f"{i}.{part}", behind_norm=True), f"{i}.{part}")
            for part in "qkv"
        )
        k = graph.add("Transpose", [k], name=f"{i}.k.turned", perm=(0, 1, 3, 2))
        y = graph.add("MatMul", [q, k], name=f"{i}.scores")
        y = graph.add(
            "Mul", [y, constant((WIDTH / HEADS) ** -0.5, f"{i}.scale")], name=f"{i}.scaled"
        )
        y = graph.add(
            "MatMul", [graph.add("Softmax", [y], name=f"{i}.weights"), v], name=f"{i}.mixed"
        )
        y = graph.add("Transpose", [y], name=f"{i}.rows", perm=(0, 2, 1, 3))
        y = linear(graph.add("Reshape", [y, joined], name=f"{i}.joined"), WIDTH, WIDTH, f"{i}.out")
        x = graph.add("Add", [x, y], name=f"{i}.middle")
        y = linear(norm(x, f"{i}.norm2"), WIDTH, INNER, f"{i}.fc1", behind_norm=True)
        y = linear(graph.add("Relu", [y], name=f"{i}.act"), INNER, WIDTH, f"{i}.fc2")
        x = graph.add("Add", [x, y], name=f"{i}.end")
    place = graph.constant(np.array(0), name="class.place")
    outliers = False  # features are not of one channel
    x = graph.add("Gather", [norm(x, "norm"), place], name="chosen", axis=1)
    metadata = encoders.EncoderMetadata(
        name="tiny-vit",
        network="tiny-vit",
        layer="features",
        d=WIDTH,
        patch_px=PX,
        mpp=0.5,
        precision="float32",
        weights_sha256="random",
        provenance="tests",
        licence="Apache-2.0",
        exporter="tests",
    )
    path.write_bytes(graphs.to_bytes(graph.finish(x, metadata=metadata)))
    return path
