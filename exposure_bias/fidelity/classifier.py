"""Small classifiers whose last hidden layer serves as features.

They are trained on train splits by `analyses/train_classifier.py`, which writes the weights and
what became of them: `Digits` for 1×8×8 digits, `Fashion` for Fashion-MNIST averaged to 1×14×14,
`Cifar` for 3×32×32 photographs of CIFAR-10, seen as JPEGs of quality about 75. Each gives features
(B, 32) by `features`, class logits (B, 10) by calling it."""

from torch import Tensor, nn
from torch.nn import functional as F

from exposure_bias.data.bundled import FOLDER

FILE = "classifier.safetensors"
DIMENSION = 32


class Digits(nn.Module):
    """Features of 1×8×8 images in [−1, 1].

    Two 3×3 convolutions → 2×2 maxima → one 3×3 convolution → 32 features → 10 classes."""

    shape = (1, 8, 8)
    folder = FOLDER / "digits-classifier"

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.third = nn.Conv2d(32, 32, 3, padding=1)
        self.hidden = nn.Linear(32 * 4 * 4, DIMENSION)
        self.head = nn.Linear(DIMENSION, 10)

    def features(self, x: Tensor) -> Tensor:
        """The last hidden layer (B, 32), before its nonlinearity.

        The images are (B, 1, 8, 8) in [−1, 1]."""
        x = F.max_pool2d(F.silu(self.second(F.silu(self.first(x)))), 2)
        hidden: Tensor = self.hidden(F.silu(self.third(x)).flatten(1))
        return hidden

    def forward(self, x: Tensor) -> Tensor:
        """Class logits (B, 10)."""
        logits: Tensor = self.head(F.silu(self.features(x)))
        return logits


class Fashion(nn.Module):
    """Features of 1×14×14 images in [−1, 1].

    Two 3×3 convolutions → 2×2 maxima → two 3×3 convolutions → 32 means over the image → 10 classes.
    """

    shape = (1, 14, 14)
    folder = FOLDER / "fashion-classifier"

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 24, 3, padding=1)
        self.third = nn.Conv2d(24, 48, 3, padding=1)
        self.fourth = nn.Conv2d(48, DIMENSION, 3, padding=1)
        self.head = nn.Linear(DIMENSION, 10)

    def features(self, x: Tensor) -> Tensor:
        """The last hidden layer (B, 32) of images (B, 1, 14, 14) in [−1, 1]."""
        x = F.max_pool2d(F.silu(self.second(F.silu(self.first(x)))), 2)
        return F.silu(self.fourth(F.silu(self.third(x)))).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Class logits (B, 10)."""
        logits: Tensor = self.head(self.features(x))
        return logits


class Cifar(nn.Module):
    """Features of 3×32×32 images in [−1, 1].

    One 3×3 convolution → 2×2 maxima → two → 2×2 maxima → two → 32 means over the image → 10
    classes."""

    shape = (3, 32, 32)
    folder = FOLDER / "cifar-classifier"

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.third = nn.Conv2d(32, 48, 3, padding=1)
        self.fourth = nn.Conv2d(48, 64, 3, padding=1)
        self.fifth = nn.Conv2d(64, DIMENSION, 3, padding=1)
        self.head = nn.Linear(DIMENSION, 10)

    def features(self, x: Tensor) -> Tensor:
        """The last hidden layer (B, 32) of images (B, 3, 32, 32) in [−1, 1]."""
        x = F.max_pool2d(F.silu(self.first(x)), 2)
        x = F.max_pool2d(F.silu(self.third(F.silu(self.second(x)))), 2)
        return F.silu(self.fifth(F.silu(self.fourth(x)))).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Class logits (B, 10)."""
        logits: Tensor = self.head(self.features(x))
        return logits


Classifier = Digits | Fashion | Cifar
Kind = type[Digits] | type[Fashion] | type[Cifar]
KINDS: tuple[Kind, ...] = (Digits, Fashion, Cifar)


def of(shape: tuple[int, ...]) -> Kind | None:
    """The classifier that knows images of a shape (C, H, W), if one is bundled."""
    there = (kind for kind in KINDS if (kind.folder / FILE).exists())
    return next((kind for kind in there if kind.shape == tuple(shape)), None)


def known() -> str:
    """The images that the bundled classifiers know, in words."""
    there = [kind for kind in KINDS if (kind.folder / FILE).exists()]
    return ", ".join(f"{kind.__name__} {'×'.join(map(str, kind.shape))}" for kind in there)


def load(kind: Kind = Digits) -> Classifier:
    """A bundled classifier, float32, in evaluation mode."""
    from safetensors.torch import load_file

    net = kind()
    weights = load_file(kind.folder / FILE)
    net.load_state_dict({key: value.float() for key, value in weights.items()})
    return net.eval()
