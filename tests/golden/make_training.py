"""Write what Keras's Ftrl makes of some rows to training.json.

Run it in an environment of its own, where `pip install tensorflow-cpu==2.21` was done:

    python tests/golden/make_training.py

Nothing else needs TensorFlow: test_update.py reads the file. The numbers are float64, and the seed
is fixed, so a second run writes the same bytes. A case has the options of shardwise's `Ftrl`, and
the rows after its steps. Step k has the learning rate of the case times (1 + k % 3), and gradients
of the ids `(k * 7 + [0, 1, 2, 3, 4]) % 11`; see `gradients_of`. Keras makes the first
accumulators as float32: those here are numbers that a float32 holds.
"""

import json
import os
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import keras
import numpy as np
import tensorflow as tf

ROWS, DIM, STEPS = 11, 3, 200
CASES = [
    {"learning_rate": 0.125, "initial_accumulator_value": 0.125},
    {"learning_rate": 0.05, "initial_accumulator_value": 0.25, "l1": 0.02},
    {"learning_rate": 0.1, "initial_accumulator_value": 0.5, "l2": 0.1, "beta": 0.5},
    {
        "learning_rate": 0.02,
        "initial_accumulator_value": 0.125,
        "l1": 0.01,
        "l2": 0.02,
        "l2_shrinkage": 0.1,
        "beta": 1.0,
    },
]
NAMES = {
    "l1": "l1_regularization_strength",
    "l2": "l2_regularization_strength",
    "l2_shrinkage": "l2_shrinkage_regularization_strength",
}


def ids_of(step):
    return (step * 7 + np.arange(5)) % ROWS


def gradients_of(step):
    return np.sin(np.arange(5 * DIM).reshape(5, DIM) * 1.7 + step * 0.9)


def main():
    keras.config.set_floatx("float64")
    found = []
    for case in CASES:
        options = {NAMES.get(name, name): value for name, value in case.items()}
        optimizer = keras.optimizers.Ftrl(**options)
        # One variable a row: Keras moves all rows of a variable, also those without a gradient.
        rows = [tf.Variable(np.cos(np.arange(DIM) + row)) for row in range(ROWS)]
        optimizer.build(rows)
        for step in range(STEPS):
            optimizer.learning_rate.assign(case["learning_rate"] * (1 + step % 3))
            for row, gradient in zip(ids_of(step), gradients_of(step), strict=True):
                variable = rows[row]
                optimizer.update_step(tf.constant(gradient), variable, optimizer.learning_rate)
        found.append({"options": case, "rows": [row.numpy().tolist() for row in rows]})
    path = Path(__file__).with_name("training.json")
    path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
