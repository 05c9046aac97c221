"""The settings that components have in common, as they are unless a config says otherwise."""

from thinc.api import Config

from ..pipe.dial import DEFAULT_THRESHOLD


def default_config(decoder: str, scorer: str, own: str = "") -> Config:
    """Make the default config of a component.

    decoder (str): Registered name of its decoder.
    scorer (str): Registered name of its scorer.
    own (str): Lines for settings that it alone has.
    RETURNS (Config): The config.
    """
    return Config().from_str(
        f"""
        [component]
        {own}
        threshold = {DEFAULT_THRESHOLD}
        speedup = null
        adaptive = false
        store_exits = false
        batch_wordpieces = 2048
        threads = null
        window_length = null
        window_overlap = 64
        get_spans = null
        kv = "copy"
        halt_special = false
        quantize = null

        [component.criterion]
        @misc = "spacy-early-exit.TokenExit.v1"
        window = 1

        [component.decoder]
        @misc = "{decoder}"

        [component.training]
        @misc = "spacy-early-exit.JointTraining.v1"
        distillation = 0.0
        detach_early_heads = false
        pseudo_labels = false

        [component.model]
        @architectures = "spacy-early-exit.EarlyExitTagger.v2"
        head_lr_factor = 5.0
        freeze_encoder = false
        freeze_full_depth = false
        mixed_precision = false
        shared_wordpieces = "split"

        [component.model.encoder]
        @misc = "spacy-early-exit.HFEncoder.v1"
        name = "sentence-transformers/all-MiniLM-L6-v2"
        revision = null

        [component.scorer]
        @scorers = "{scorer}"
        """
    )["component"]
