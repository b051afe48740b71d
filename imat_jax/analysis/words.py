"""The words behind the frames of text, where it is known which tokenizer made them."""

from __future__ import annotations

from collections.abc import Callable

from imat_jax import encoders
from imat_jax.data.corpus import DataError
from imat_jax.encoders import bert
from imat_jax.experiment import Experiment


def tokens_of(experiment: Experiment) -> Callable[[str, int], list[str] | None]:
    """`words(transcript, frames)` -> a string for each frame, or None where that is not known.

    Known is it where the dataset names an encoder of the BERT family that is at hand, and its
    tokens of the transcript are as many as the frames. Nothing is aligned by guess. A string that
    goes on with the word before it begins with "##".
    """
    if experiment.text:
        directory = experiment.text.directory
    else:
        recipe = experiment.dataset.metadata.get("facts", {}).get("extraction", {})
        try:
            directory = encoders.text_directory(recipe.get("encoders", {}).get("text", ""))
        except DataError:
            return lambda transcript, frames: None
    try:
        split = bert.token_strings(directory)
    except DataError:
        return lambda transcript, frames: None

    def words(transcript: str, frames: int) -> list[str] | None:
        found = split(transcript)
        if experiment.text and len(found) > frames:  # as `tuning.Text.tokenizer` crops
            found = [*found[: frames - 1], found[-1]]
        return found if len(found) == frames else None

    return words
