"""Makes the checkpoints beside this file. It needs TensorFlow 2.21; the tests do not.

Values follow from the shape alone, so that the tests can compute them again: see `values`.
"""

import shutil
from pathlib import Path

import numpy as np
import tensorflow as tf

HERE = Path(__file__).parent
DTYPES = (
    *("float32", "float64", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "complex64"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"),
)


def values(*shape, dtype="float32", first=0):
    """Numbers that count up in quarters, row after row; every dtype here holds those up to 8."""
    count = int(np.prod(shape))
    quarters = np.arange(4 * first, 4 * first + count, dtype=np.float32).reshape(shape) / 4
    return tf.cast(quarters, tf.as_dtype(dtype))


def folder(name):
    path = HERE / name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    return path


def save(prefix, tensors):
    """Write a bundle: {name: tensor} or {(name, "shape and slice"): tensor}."""
    names = [key if isinstance(key, tuple) else (key, "") for key in tensors]
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=[name for name, _ in names],
        shape_and_slices=[cut for _, cut in names],
        tensors=list(tensors.values()),
    )


class Layer(tf.Module):
    def __init__(self):
        super().__init__()
        self.embeddings = tf.Variable(values(12, 4))
        self.kernel = tf.Variable(values(4, 3))
        self.bias = tf.Variable(values(3))


def object_checkpoint():
    """`tf.train.Checkpoint` with a Keras optimizer, and its file `checkpoint`."""
    path = folder("objects")
    layer = Layer()
    optimizer = tf.keras.optimizers.Adam()
    optimizer.build([layer.embeddings, layer.kernel, layer.bias])
    step = tf.Variable(7, dtype=tf.int64)
    checkpoint = tf.train.Checkpoint(layer=layer, optimizer=optimizer, step=step)
    tf.train.CheckpointManager(checkpoint, str(path), max_to_keep=2).save()


def keras_checkpoint():
    """What `model.save_weights` wrote before Keras 3: a checkpoint of a Keras model."""
    path = folder("keras")
    model = tf.keras.Sequential([tf.keras.Input((3,)), tf.keras.layers.Embedding(6, 4)])
    model.layers[0].set_weights([values(6, 4).numpy()])
    tf.train.Checkpoint(model=model).write(str(path / "weights"))


def saved_model():
    """The variables of a SavedModel; the graph is not needed."""
    path = folder("saved_model")
    tf.saved_model.save(Layer(), str(path))
    for other in path.iterdir():
        if other.name != "variables":
            shutil.rmtree(other) if other.is_dir() else other.unlink()


def partitioned():
    """A TF1 graph with a variable in three slices, and its Adagrad slots."""
    path = folder("slices")
    v1 = tf.compat.v1
    with tf.Graph().as_default():
        parts = v1.get_variable(
            "words/embedding",
            shape=(10, 4),
            initializer=lambda shape, dtype, partition_info: values(
                *shape, first=partition_info.var_offset[0]
            ),
            partitioner=v1.fixed_size_partitioner(3),
            use_resource=False,
        )
        loss = tf.add_n([tf.reduce_sum(part) * 0 for part in parts])
        train = v1.train.AdagradOptimizer(0.1).minimize(loss)
        saver = v1.train.Saver()
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            session.run(train)
            saver.save(
                session,
                str(path / "model.ckpt"),
                global_step=30,
                write_meta_graph=False,
                write_state=False,
            )


def slices_in_files():
    """Slices in three data files, in another order than their rows; 1001 rows need long extents."""
    path = folder("sharded")
    cuts = ((500, 501), (0, 70), (70, 430))
    for number, (begin, rows) in enumerate(cuts):
        tensors = {("embed", f"1001 2 {begin},{rows}:-"): values(rows, 2, first=begin / 2)}
        if number == 0:
            tensors["step"] = tf.constant(3, tf.int64)
        save(path / f"tmp{number}", tensors)
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=[str(path / f"tmp{number}") for number in range(3)],
        destination_prefix=str(path / "model"),
        delete_old_dirs=False,
    )


def odd_slices():
    """Slices that cut the second axis, and slices with a hole."""
    path = folder("odd_slices")
    save(
        path / "model",
        {
            ("columns", "4 6 -:0,3"): values(4, 3),
            ("columns", "4 6 -:3,3"): values(4, 3),
            ("whole", "3 2 -:-"): values(3, 2),
            ("both", "4 6 0,2:0,6"): values(2, 6),
            ("both", "4 6 2,2:0,6"): values(2, 6, first=3),
            ("hole", "9 2 0,3:-"): values(3, 2),
            ("hole", "9 2 6,3:-"): values(3, 2),
            ("overlap", "4 2 0,3:-"): values(3, 2),
            ("overlap", "4 2 2,2:-"): values(2, 2),
        },
    )


def parts():
    """Parts as variables of their own, as `mod` deals 10 rows on 3, with slots; many names."""
    path = folder("parts")
    tensors = {}
    for part, rows in enumerate((4, 3, 3)):
        tensors[f"table/part_{part}"] = values(rows, 4, first=4 * part)
        tensors[f"table/part_{part}/Adam"] = values(rows, 4)
    for part in (0, 2):
        tensors[f"holed/part_{part}"] = values(2, 3)
    for part, rows in enumerate((1, 5)):
        tensors[f"uneven/part_{part}"] = values(rows, 2, first=part / 2)
    for number in range(40):
        tensors[f"layers/dense_{number}/bias"] = values(2, first=number)
    save(path / "model", tensors)


def dtypes():
    """A matrix of each dtype, scalars, no rows, three axes, and strings."""
    path = folder("dtypes")
    tensors = {dtype: values(5, 3, dtype=dtype) for dtype in DTYPES}
    tensors["scalar"] = tf.constant(1.5)
    tensors["empty"] = tf.zeros((0, 4))
    tensors["cube"] = values(3, 2, 2)
    tensors["strings"] = tf.constant(["a", "bc"])
    save(path / "model", tensors)


if __name__ == "__main__":
    object_checkpoint()
    keras_checkpoint()
    saved_model()
    partitioned()
    slices_in_files()
    odd_slices()
    parts()
    dtypes()
