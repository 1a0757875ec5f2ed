"""What goes wrong with the Hugging Face hub, in one line of ours."""

from typing import NoReturn

from exposure_bias.errors import InputError, reason


def refuse(error: Exception, repo: str, revision: str) -> NoReturn:
    """Raise InputError with what went wrong and what to do about it."""
    from huggingface_hub import constants, errors

    said, at = reason(error), "" if revision == "main" else f"@{revision}"
    if isinstance(error, errors.GatedRepoError):
        words = (
            f"{repo} is gated: accept its terms at {constants.ENDPOINT}/{repo}, then log in with"
            " `hf auth login`"
        )
    elif isinstance(error, errors.RepositoryNotFoundError):
        words = (
            f"there is no {repo} here or on the hub: correct the name, or if it is private log in"
            " (`hf auth login`)"
        )
    elif isinstance(error, errors.RevisionNotFoundError):
        words = (
            f"{repo} has no revision {revision!r}: give a branch, a tag or a commit, or leave"
            f" @{revision} out"
        )
    elif isinstance(error, errors.HFValidationError):
        words = f"{repo} is no name of the hub ({said}): write org/name or org/name@revision"
    elif constants.HF_HUB_OFFLINE:
        words = (
            f"there is no {repo}{at} here or in the cache {constants.HF_HUB_CACHE}, and"
            " HF_HUB_OFFLINE is set: unset it, or set HF_HUB_CACHE to where it lies"
        )
    elif isinstance(error, errors.LocalEntryNotFoundError):
        words = (
            f"there is no {repo}{at} here or in the cache {constants.HF_HUB_CACHE}, and the hub"
            " cannot be reached: connect, or give a folder"
        )
    else:
        words = f"cannot fetch {repo}{at} from the hub: {said}"
    raise InputError(words) from error
