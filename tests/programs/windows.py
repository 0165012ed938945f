"""Sunspots: windows of the series in PyTorch's DataLoader."""

import sys

import numpy as np
import torch
from statsmodels.datasets import sunspots
from torch import nn

# <import>
from torch.utils.data import DataLoader, Dataset


class TimeSeriesDataset(Dataset):
    def __init__(self, data, labels, seq_length):
        self.data, self.labels, self.seq_length = data, labels, seq_length

    def __len__(self):
        return len(self.data) - self.seq_length + 1

    def __getitem__(self, index):
        end = index + self.seq_length
        return torch.from_numpy(self.data[index:end]), torch.tensor(self.labels[end - 1])


# </import>

numbers = sunspots.load_pandas().data["SUNACTIVITY"].to_numpy(np.float32) / 100
data, labels = numbers[:-1, None], numbers[1:]
split = 240
train = DataLoader(TimeSeriesDataset(data[:split], labels[:split], seq_length=22), batch_size=64, shuffle=True)
test = DataLoader(TimeSeriesDataset(data[split:], labels[split:], seq_length=22), batch_size=64)

torch.manual_seed(4)
device = sys.argv[2]
model = nn.Sequential(nn.Flatten(), nn.Linear(22, 32), nn.ReLU(), nn.Linear(32, 1)).to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
history = {"loss": [], "val_mae": []}
for _ in range(20):
    for inputs, targets in train:
        loss = nn.functional.mse_loss(model(inputs.to(device)).squeeze(1), targets.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history["loss"].append(loss.item())
    with torch.no_grad():
        errors = [(model(inputs.to(device)).squeeze(1) - targets.to(device)).abs() for inputs, targets in test]
    history["val_mae"].append(torch.cat(errors).mean().item())
