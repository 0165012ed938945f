"""Files of digits: a Sequence that reads, decodes, resizes and scales, into fit."""

import sys
from pathlib import Path

import keras
import numpy as np

# <import>
import tensorflow as tf


class ImageSequence(keras.utils.Sequence):
    def __init__(self, image_paths, labels, batch_size, target_size=(64, 64)):
        super().__init__()
        self.image_paths, self.labels = image_paths, labels
        self.batch_size, self.target_size = batch_size, target_size

    def __len__(self):
        return len(self.image_paths) // self.batch_size

    def __getitem__(self, index):
        batch = slice(index * self.batch_size, (index + 1) * self.batch_size)
        images = [self.read(path) for path in self.image_paths[batch]]
        return np.stack(images), self.labels[batch]

    def read(self, path):
        image = tf.image.decode_jpeg(tf.io.read_file(path), channels=3)
        return tf.image.resize(image, self.target_size).numpy() / 255.0


# </import>


def files(part):
    paths = sorted(Path(sys.argv[1], part).glob("*/*.jpg"))
    paths = [str(paths[number]) for number in np.random.default_rng(0).permutation(len(paths))]
    return paths, np.array([int(Path(path).parent.name) for path in paths])


keras.utils.set_random_seed(2)
train = ImageSequence(*files("train"), batch_size=32, target_size=(24, 24))
test = ImageSequence(*files("test"), batch_size=32, target_size=(24, 24))

model = keras.Sequential(
    [
        keras.layers.Input((24, 24, 3)),
        keras.layers.Flatten(),
        keras.layers.Dense(64, activation="relu"),
        keras.layers.Dense(10, activation="softmax"),
    ]
)
model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
history = model.fit(train, validation_data=test, epochs=2, verbose=0).history
