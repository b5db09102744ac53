"""Perceptrons and a residual network of PyTorch."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .data import Digits, digits


def train_mlp(data: Digits | None = None, *, epochs: int = 20, seed: int = 0) -> nn.Sequential:
    """Train a 64-128-64-10 perceptron on the digits, in a few seconds.

    Parameters
    ----------
    data : Digits, optional
        What `digits` returned; loaded here when left out.
    epochs : int
        Passes over the training rows; 20 reach an accuracy above 0.95.
    seed : int
        Seed of the initial weights and of the order of the rows.

    Returns
    -------
    torch.nn.Sequential
        In evaluation mode; gives 10 logits a row.
    """
    data = digits() if data is None else data
    x, y = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
    # Layers this small only lose by being shared out among threads.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            module = perceptron(64, 128, 64, 10)
            optimizer = torch.optim.Adam(module.parameters(), lr=2e-3)
            for _ in range(epochs):
                for rows in torch.split(torch.randperm(len(y)), 64):
                    optimizer.zero_grad()
                    cross_entropy(module(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
    finally:
        torch.set_num_threads(threads)
    return module.eval()


def mlp_784(seed: int = 0) -> nn.Sequential:
    """Build a 784-512-512-10 perceptron with random weights, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return perceptron(784, 512, 512, 10).eval()


def perceptron(*widths: int) -> nn.Sequential:
    """Build linear layers of the given widths with ReLUs between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def resnet20(seed: int = 0, classes: int = 10) -> nn.Sequential:
    """Build ResNet-20 for rows of 3 x 32 x 32 with random weights, in evaluation mode.

    Notes
    -----
    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2, with
    1 x 1 convolutions as shortcuts.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = [convolution(3, 16, 3, 1), nn.BatchNorm2d(16), nn.ReLU()]
        channels = 16
        for width, stride in ((16, 1), (32, 2), (64, 2)):
            for block in range(3):
                layers.append(ResidualBlock(channels, width, stride if block == 0 else 1))
                channels = width
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]
        return nn.Sequential(*layers).eval()


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut.

    Parameters
    ----------
    channels_in, channels_out : int
        Channels before and after; where they differ, the shortcut is a 1 x 1 convolution.
    stride : int
        Of the first convolution; 2 halves the image.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.body: nn.Sequential = nn.Sequential(
            convolution(channels_in, channels_out, 3, stride),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(),
            convolution(channels_out, channels_out, 3, 1),
            nn.BatchNorm2d(channels_out),
        )
        self.shortcut: nn.Sequential = nn.Sequential()
        if stride > 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                convolution(channels_in, channels_out, 1, stride), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of body and shortcut, rectified."""
        return torch.relu(self.body(x) + self.shortcut(x))


def convolution(channels_in: int, channels_out: int, size: int, stride: int) -> nn.Conv2d:
    """Build a convolution that keeps the image's size, divided by the stride."""
    return nn.Conv2d(channels_in, channels_out, size, stride, padding=size // 2, bias=False)
