"""The V-Net in PyTorch, from the layer table of node/src/model/layout.rs and with its tensor names.

GroupNorm and ReLU after every convolution, skips added on the way up. `losses` are those of node/src/train/losses.rs.
"""

import torch
from torch import nn
from torch.nn import functional

# Name, sampling, units, channels going in and coming out in multiples of the first level's; 0 stands for the image.
STAGES = [
    ("block_one", "same", 1, 0, 1),
    ("block_one_dw", "down", 1, 1, 2),
    ("block_two", "same", 2, 2, 2),
    ("block_two_dw", "down", 1, 2, 4),
    ("block_three", "same", 3, 4, 4),
    ("block_three_dw", "down", 1, 4, 8),
    ("block_four", "same", 3, 8, 8),
    ("block_four_dw", "down", 1, 8, 16),
    ("block_five", "same", 3, 16, 16),
    ("block_five_up", "up", 1, 16, 8),
    ("block_six", "same", 3, 8, 8),
    ("block_six_up", "up", 1, 8, 4),
    ("block_seven", "same", 3, 4, 4),
    ("block_seven_up", "up", 1, 4, 2),
    ("block_eight", "same", 2, 2, 2),
    ("block_eight_up", "up", 1, 2, 1),
    ("block_nine", "same", 1, 1, 1),
]
SMOOTHING = 1e-5


class Stage(nn.Module):
    """A few units of convolution, GroupNorm and ReLU."""

    def __init__(self, sampling, units, inputs, outputs, groups):
        super().__init__()
        layers = []
        for unit in range(units):
            channels = (inputs if unit == 0 else outputs, outputs)
            if sampling == "same":
                layers.append(nn.Conv3d(*channels, 3, padding=1))
            elif sampling == "down":
                layers.append(nn.Conv3d(*channels, 2, stride=2))
            else:
                layers.append(nn.ConvTranspose3d(*channels, 2, stride=2))
            layers += [nn.GroupNorm(groups, outputs), nn.ReLU(inplace=True)]
        self.conv = nn.Sequential(*layers)

    def forward(self, x):
        return self.conv(x)


class VNet(nn.Module):
    """Five levels; one group per filter of the first level."""

    def __init__(self, base_filters, classes=2, in_channels=1):
        super().__init__()
        for name, sampling, units, inputs, outputs in STAGES:
            channels = (inputs * base_filters or in_channels, outputs * base_filters)
            self.add_module(name, Stage(sampling, units, *channels, base_filters))
        self.out_conv = nn.Conv3d(base_filters, classes, 1)

    def forward(self, x):
        kept = []
        for name, sampling, *_ in STAGES:
            if sampling == "down":
                kept.append(x)
            x = self.get_submodule(name)(x)
            if sampling == "up":
                x = x + kept.pop()
        return self.out_conv(x)


def cross_entropy_and_dice(logits, labels):
    """Mean cross-entropy, and one minus the soft Dice of the foreground classes over the batch as a whole."""
    entropy = functional.cross_entropy(logits, labels)
    probabilities = logits.softmax(1)
    dice = 0
    for label in range(1, logits.shape[1]):
        found, truth = probabilities[:, label], (labels == label).to(logits.dtype)
        common, sizes = (found * truth).sum(), (found * found).sum() + truth.sum()
        dice = dice + 1 - (2 * common + SMOOTHING) / (sizes + SMOOTHING)
    return entropy, dice / (logits.shape[1] - 1)


def agreement(logits, teacher):
    """Half the mean squared difference from the teacher's probabilities."""
    return 0.5 * (logits.softmax(1) - teacher).square().mean()


def optimiser(network):
    """The recipe's: SGD with momentum 0.9 and an L2 penalty of 1e-4."""
    return torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
