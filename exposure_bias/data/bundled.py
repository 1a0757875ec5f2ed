"""What comes with the package, by name: the one place where bundled names stand. No torch here."""

from pathlib import Path

FOLDER = Path(__file__).parent.parent / "models"
DATA = ("digits", "patches", "fashion")
FASHION = FOLDER / "fashion-data" / "fashion-mnist-14.npz"
# Sequences by their file, and the model of the same name.
SEQUENCES = {"lorenz96": FOLDER / "lorenz96" / "sequences.npz"}
# Models, and the data that each was trained on.
MODELS = {data + suffix: data for data in ("digits", "fashion") for suffix in ("", "-ip")}
DEFAULT_MODEL = "digits"
DEFAULT_SEQUENCES = "lorenz96"


def models() -> list[str]:
    """Names of the models of single states that are there."""
    return sorted(name for name in MODELS if (FOLDER / name / "model_index.json").exists())


def sequence_models() -> list[str]:
    """Names of the models of sequences that are there; their data have the same names."""
    return sorted(name for name, path in SEQUENCES.items() if path.exists())


def data_of(model: str) -> str:
    """The data that a bundled model was trained on; of any other model the default's."""
    return MODELS.get(model, MODELS[DEFAULT_MODEL])
