"""Digits in folders by class: an ImageDataGenerator into fit."""

import sys

import keras

# <import>
from keras.src.legacy.preprocessing.image import ImageDataGenerator

# </import>

keras.utils.set_random_seed(1)
augmented = ImageDataGenerator(rescale=1.0 / 255, shear_range=0.2, zoom_range=0.2, horizontal_flip=True)
plain = ImageDataGenerator(rescale=1.0 / 255)
flow = {"target_size": (24, 24), "batch_size": 32, "class_mode": "categorical", "seed": 1}
train = augmented.flow_from_directory(f"{sys.argv[1]}/train", **flow)
test = plain.flow_from_directory(f"{sys.argv[1]}/test", **flow, shuffle=False)

model = keras.Sequential(
    [
        keras.layers.Input((24, 24, 3)),
        keras.layers.Flatten(),
        keras.layers.Dense(64, activation="relu"),
        keras.layers.Dense(10, activation="softmax"),
    ]
)
model.compile(keras.optimizers.Adam(1e-3), "categorical_crossentropy", metrics=["accuracy"])
history = model.fit(train, validation_data=test, epochs=3, verbose=0).history
