"""A small classifier of the bundled digits, whose last hidden layer serves as features.

1×8×8 images in [−1, 1] → two 3×3 convolutions → 2×2 maxima → one 3×3 convolution → 32 features → 10
classes. It was trained on the train split by `analyses/train_classifier.py`, which wrote the
weights and what became of them."""

from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

FOLDER = Path(__file__).parent.parent / "models" / "digits-classifier"
FILE = "classifier.safetensors"
SHAPE = (1, 8, 8)
DIMENSION = 32


class Classifier(nn.Module):
    """Features (B, 32) by `features`, class logits (B, 10) by calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.third = nn.Conv2d(32, 32, 3, padding=1)
        self.hidden = nn.Linear(32 * 4 * 4, DIMENSION)
        self.head = nn.Linear(DIMENSION, 10)

    def features(self, x: Tensor) -> Tensor:
        """The last hidden layer (B, 32), before its nonlinearity, of images (B, 1, 8, 8) in [−1,
        1]."""
        x = F.max_pool2d(F.silu(self.second(F.silu(self.first(x)))), 2)
        hidden: Tensor = self.hidden(F.silu(self.third(x)).flatten(1))
        return hidden

    def forward(self, x: Tensor) -> Tensor:
        """Class logits (B, 10)."""
        logits: Tensor = self.head(F.silu(self.features(x)))
        return logits


def load() -> Classifier:
    """The bundled classifier, float32, in evaluation mode."""
    from safetensors.torch import load_file

    net = Classifier()
    net.load_state_dict({key: value.float() for key, value in load_file(FOLDER / FILE).items()})
    return net.eval()
