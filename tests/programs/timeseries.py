"""Carbon dioxide at Mauna Loa: timeseries_dataset_from_array into fit."""

import keras

# <import>
from keras.utils import timeseries_dataset_from_array

# </import>
from statsmodels.datasets import co2

weekly = co2.load_pandas().data["co2"].interpolate().to_numpy("float32")
change = weekly[52:] - weekly[:-52]  # over a year
values = ((change - change.mean()) / change.std())[:, None]
length, ahead, split = 52, 4, 1600
data, targets = values[: -(length + ahead - 1)], values[length + ahead - 1 :]
train = timeseries_dataset_from_array(data, targets, length, batch_size=64, end_index=split)
test = timeseries_dataset_from_array(data, targets, length, batch_size=64, start_index=split)

keras.utils.set_random_seed(3)
model = keras.Sequential(
    [
        keras.layers.Input((length, 1)),
        keras.layers.Flatten(),
        keras.layers.Dense(32, activation="relu"),
        keras.layers.Dense(1),
    ]
)
model.compile(keras.optimizers.Adam(1e-3), "mse", metrics=["mae"])
history = model.fit(train, validation_data=test, epochs=6, shuffle=False, verbose=0).history
