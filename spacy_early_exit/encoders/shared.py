"""``SharedEncoder.v1``: the encoder of another component of the same pipeline."""

from dataclasses import dataclass

from .base import EncoderSource, PretrainedEncoder


@dataclass(frozen=True)
class SharedEncoder:
    """The encoder of another component. One pass through it answers for both.

    component (str): Name of the component, which comes earlier in the pipeline.
    """

    component: str

    def load(self) -> PretrainedEncoder:
        """RAISES (ValueError): Always: there is nothing to fetch."""
        raise ValueError(
            f"The encoder is that of '{self.component}': it can't be used outside that pipeline."
        )


def make_shared_encoder(component: str = "early_exit_ner") -> EncoderSource:
    """Make the encoder source ``spacy-early-exit.SharedEncoder.v1``.

    component (str): Name of the component whose encoder is shared. It comes earlier in the
        pipeline, and has an encoder of its own.
    RETURNS (EncoderSource): The source.
    """
    return SharedEncoder(component)
